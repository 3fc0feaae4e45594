"""Reads an input, whatever its files are, as one table: first its columns, then its rows in chunks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from cascadebert.data.arrow_files import ArrowLayout, read_arrow, read_arrow_layout
from cascadebert.data.columns import (
    USUAL_LABEL_COLUMN,
    USUAL_TEXT_COLUMNS,
    Columns,
    find_text_columns,
    match_column,
)
from cascadebert.data.csv_files import CsvLayout, read_csv, read_csv_layout
from cascadebert.data.files import DataFile, DataFiles, find_files
from cascadebert.data.json_files import column_kinds, read_json
from cascadebert.data.labels import shorten
from cascadebert.data.streams import copy_stream, is_stream
from cascadebert.data.table import MISSING, Chunk, ColumnType, Places, Table, describe_fault
from cascadebert.data.text_files import count_lines, open_text
from cascadebert.errors import DataError

log = logging.getLogger("cascadebert")

CHUNK_ROWS = 16_384
CHUNK_CELLS, MIN_ROWS = 2_000_000, 256  # a chunk has fewer rows where it would have more cells
JSON_ROWS = 1024  # are parsed at once where the columns are not known yet
TEXT_COLUMN = "text"  # of a file with a text on each line


@dataclass(frozen=True)
class FileLayout:
    """The columns of one file."""

    file: DataFile
    types: Mapping[str, ColumnType]  # by name, in order
    known_rows: int | None = None  # None for csv and txt
    form: CsvLayout | ArrowLayout | None = None
    kept: tuple[Chunk, ...] | None = None  # the rows of JSON, with the columns that may be needed

    @cached_property
    def rows(self) -> int:
        """Number of rows; for csv and txt, of lines, which are counted once."""
        return count_lines(self.file) if self.known_rows is None else self.known_rows


@dataclass(frozen=True)
class Layout:
    """The columns of an input, settled over all of its files."""

    files: tuple[FileLayout, ...]
    name: str  # in messages
    encoding: str | None
    inputs: DataFiles  # kept, as a copied stream is removed with it
    texts: tuple[str, ...] = ()  # names of text columns that are looked for besides the usual ones

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns in order of first appearance."""
        return tuple(dict.fromkeys(name for file in self.files for name in file.types))

    @property
    def repeated(self) -> frozenset[str]:
        """Names that a file has twice."""
        return frozenset(name for file in self.files if file.form for name in file.form.repeated)

    @property
    def rows(self) -> int:
        """Rows of all files; lines of text files that are not JSON."""
        return sum(file.rows for file in self.files)

    def find_text_columns(self, columns: Columns) -> tuple[str, ...]:
        """The text columns. Raises DataError if there are none, or a file does not have them."""
        names = find_text_columns(self.names, columns, self.name, self.repeated)
        for file in self.files:
            if file.file.format != "json" and file.types:  # where each row has names of its own
                find_text_columns(file.types, replace(columns, text=names), file.file.name)
        return names


def read_layout(
    source: Path, columns: Columns | None = None, *, split: str | None = None, keep: bool = False
) -> Layout:
    """Find the files of an input and their columns; JSON is read once for them. See `find_files`.

    With `keep`, that reading is the only one: the columns of JSON that `columns` may mean stay in memory, and
    no kinds are settled.

    Raises DataError if there is none, it has no row, or a file cannot be read.
    """
    columns = columns or Columns()
    inputs = copy_stream(source, columns) if is_stream(source) else find_files(source, split=split)
    if inputs.skipped:
        log.info("%s: files of other formats are skipped: %s", inputs.name, shorten(inputs.skipped, 3))
    layouts = tuple(_with_partition(_file_layout(file, columns, keep)) for file in inputs.files)
    found = Layout(layouts, inputs.name, columns.encoding, inputs, _texts(columns))
    if not found.names:
        for chunk in read_chunks(found):  # of JSON without any good row
            for fault in chunk.bad:
                place = describe_fault(chunk.table.source, *fault)
                raise DataError(f"{place}. No row of {inputs.name} can be read, so it has no known column.")
        raise DataError(f"{inputs.name} is empty: expected a header and rows")
    return found


def _file_layout(file: DataFile, columns: Columns, keep: bool) -> FileLayout:
    if file.format in ("csv", "tsv"):
        form = read_csv_layout(file, delimiter=columns.delimiter, encoding=columns.encoding)
        names = () if form is None else form.names
        return FileLayout(file, dict.fromkeys(names, "string"), form=form)
    if file.format == "txt":
        return FileLayout(file, {TEXT_COLUMN: "string"})
    if file.format == "json":
        chunks = read_json(file, encoding=columns.encoding, rows=JSON_ROWS, texts=_texts(columns))
        return _kept(file, chunks, columns) if keep else FileLayout(file, *column_kinds(chunks))
    arrow = read_arrow_layout(file)
    return FileLayout(file, arrow.types, arrow.rows, arrow)


def _texts(columns: Columns) -> tuple[str, ...]:
    return (*columns.text, *columns.remembered.text)


def _kept(file: DataFile, chunks: Iterator[Chunk], columns: Columns) -> FileLayout:
    """The layout of a JSON file with its rows."""
    kept, is_needed = [], dict[str, bool]()
    for chunk in chunks:
        found = chunk.table.columns
        is_needed |= {name: _may_be_needed(name, columns) for name in found if name not in is_needed}
        needed = {name: cells for name, cells in found.items() if is_needed[name]}
        kept.append(replace(chunk, table=replace(chunk.table, columns=needed)))
    return FileLayout(file, dict.fromkeys(is_needed, "json"), sum(map(len, kept)), kept=tuple(kept))


def _may_be_needed(name: str, columns: Columns) -> bool:
    remembered = columns.remembered
    wanted = (columns.label, columns.group, remembered.label, USUAL_LABEL_COLUMN)
    texts = chain(_texts(columns), *USUAL_TEXT_COLUMNS)
    return any(match_column([name], other) for other in (*wanted, *texts) if other is not None)


def _with_partition(layout: FileLayout) -> FileLayout:
    new = {name: "string" for name in layout.file.partition if name not in layout.types}
    return replace(layout, types={**layout.types, **new})


def read_chunks(
    layout: Layout, *, rows: int = CHUNK_ROWS, needed: Collection[str] | None = None
) -> Iterator[Chunk]:
    """Read an input in chunks of `rows` good and bad rows, or fewer of many columns, each of one file.

    `needed` restricts the columns of formats that can leave others unread. Raises DataError if the rest of a
    file cannot be read.
    """
    for file in layout.files:
        if not file.types and file.file.format != "json":
            continue
        for chunk in _file_chunks(file, layout, rows, needed):
            yield replace(chunk, table=replace(chunk.table, columns=_completed(chunk, file)))


def _completed(chunk: Chunk, file: FileLayout) -> Mapping[str, Any]:
    """The columns of a chunk with those in the names of its folders, and at least one."""
    count, partition = len(chunk.numbers), file.file.partition
    found = {**{name: [value] * count for name, value in partition.items()}, **chunk.table.columns}
    for name in partition if file.file.format == "json" else ():  # an object may lack the key
        found[name] = [partition[name] if cell is MISSING else cell for cell in found[name]]
    # objects without a key that is needed have one column too, for their number
    return found or {name: [MISSING] * count for name in islice(file.types, 1)}


def _file_chunks(
    file: FileLayout, layout: Layout, rows: int, needed: Collection[str] | None
) -> Iterator[Chunk]:
    encoding = layout.encoding
    rows = min(rows, max(MIN_ROWS, CHUNK_CELLS // max(1, len(file.types))))
    if file.kept is not None:
        return iter(file.kept)
    if isinstance(file.form, CsvLayout):
        return read_csv(file.file, file.form, encoding=encoding, rows=rows)
    if isinstance(file.form, ArrowLayout):
        return read_arrow(file.file, file.form, rows=rows, needed=needed)
    if file.file.format == "json":
        return read_json(file.file, encoding=encoding, rows=rows, texts=layout.texts)
    return _read_lines(file.file, encoding=encoding, rows=rows)


def _read_lines(file: DataFile, *, encoding: str | None, rows: int) -> Iterator[Chunk]:
    """A text on each line; empty lines are skipped."""
    numbered: list[tuple[int, str]] = []
    first = 1
    with open_text(file, encoding, None) as text:
        for line, content in chain(enumerate(text, start=1), [(0, "")]):
            if content.strip():
                numbered.append((line, content.removesuffix("\n")))
            if numbered and (len(numbered) == rows or not line):
                table = Table({TEXT_COLUMN: [content for _, content in numbered]}, file.name)
                numbers = list(range(first, first + len(numbered)))
                yield Chunk(table, numbers, [], [line for line, _ in numbered])
                first += len(numbered)
                numbered.clear()


def read_table(source: Path, columns: Columns | None = None) -> Table:
    """Read a whole input, with Python values; see `read_layout`.

    Raises DataError if it cannot be read, a row is bad, or there is none.
    """
    layout = read_layout(source, columns)
    return read_rows(layout, layout.names)


def read_rows(layout: Layout, names: Sequence[str]) -> Table:
    """Read these columns of a whole input, with Python values; files may write their names in other case.

    Raises DataError if a file cannot be read, a row is bad, or there is none.
    """
    needed = {name for name in layout.names if any(match_column([name], wanted) for wanted in names)}
    cells: dict[str, list[object]] = {name: [] for name in names}
    declared: dict[str, tuple[str, ...]] = {}
    places = []
    for chunk in read_chunks(layout, needed=needed):
        raise_first_fault(chunk)
        places.append((chunk.table.source, chunk.numbers, chunk.lines))
        for name, column in cells.items():
            here = match_column(chunk.table.columns, name) or name
            column.extend(chunk.table.cells(here))
            declared |= {name: chunk.table.declared[here]} if here in chunk.table.declared else {}
    if not any(rows for _, rows, _ in places):
        raise DataError(f"{layout.name} is empty: expected a header and rows")
    return Table(cells, layout.name, layout.repeated, declared, Places.join(places))


def raise_first_fault(chunk: Chunk) -> None:
    """Raise DataError with the first bad row of a chunk, if there is one."""
    for fault in chunk.bad:
        raise DataError(describe_fault(chunk.table.source, *fault))
