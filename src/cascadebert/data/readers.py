"""Reads an input, whatever its files are, as one table: first its columns, then its rows in chunks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from cascadebert.data.arrow_files import ArrowLayout, read_arrow, read_arrow_layout
from cascadebert.data.columns import Columns, find_text_columns, match_column
from cascadebert.data.csv_files import CsvLayout, read_csv, read_csv_layout
from cascadebert.data.files import DataFile, DataFiles, find_files
from cascadebert.data.json_files import column_kinds, read_json
from cascadebert.data.labels import shorten
from cascadebert.data.streams import copy_stream, is_stream
from cascadebert.data.table import Chunk, ColumnType, Places, Table, describe_fault
from cascadebert.data.text_files import count_lines, open_text
from cascadebert.errors import DataError

log = logging.getLogger("cascadebert")

CHUNK_ROWS = 16_384
TEXT_COLUMN = "text"  # of a file with a text on each line


@dataclass(frozen=True)
class FileLayout:
    """The columns of one file."""

    file: DataFile
    types: Mapping[str, ColumnType]  # by name, in order
    rows: int  # for csv and txt, lines
    form: CsvLayout | ArrowLayout | None = None


@dataclass(frozen=True)
class Layout:
    """The columns of an input, settled over all of its files."""

    files: tuple[FileLayout, ...]
    name: str  # in messages
    encoding: str | None
    inputs: DataFiles  # kept, as a copied stream is removed with it

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
            if file.types and file.file.format != "json":  # where each row has names of its own
                find_text_columns(file.types, replace(columns, text=names), file.file.name)
        return names


def read_layout(source: Path, columns: Columns | None = None, *, split: str | None = None) -> Layout:
    """Find the files of an input and their columns; JSON is read once for them. See `find_files`.

    Raises DataError if there is none, it has no row, or a file cannot be read.
    """
    columns = columns or Columns()
    inputs = copy_stream(source, columns) if is_stream(source) else find_files(source, split=split)
    if inputs.skipped:
        log.info("%s: files of other formats are skipped: %s", inputs.name, shorten(inputs.skipped, 3))
    layouts = tuple(_with_partition(_file_layout(file, columns)) for file in inputs.files)
    found = Layout(layouts, inputs.name, columns.encoding, inputs)
    if not found.names:
        for chunk in read_chunks(found):  # of JSON without any good row
            raise_first_fault(chunk)
        raise DataError(f"{inputs.name} is empty: expected a header and rows")
    return found


def _file_layout(file: DataFile, columns: Columns) -> FileLayout:
    if file.format in ("csv", "tsv"):
        form = read_csv_layout(file, delimiter=columns.delimiter, encoding=columns.encoding)
        names = () if form is None else form.names
        return FileLayout(file, dict.fromkeys(names, "string"), count_lines(file), form)
    if file.format == "txt":
        return FileLayout(file, {TEXT_COLUMN: "string"}, count_lines(file))
    if file.format == "json":
        kinds, rows = column_kinds(read_json(file, encoding=columns.encoding, rows=CHUNK_ROWS))
        return FileLayout(file, kinds, rows)
    arrow = read_arrow_layout(file)
    return FileLayout(file, arrow.types, arrow.rows, arrow)


def _with_partition(layout: FileLayout) -> FileLayout:
    new = {name: "string" for name in layout.file.partition if name not in layout.types}
    return replace(layout, types={**layout.types, **new})


def read_chunks(
    layout: Layout, *, rows: int = CHUNK_ROWS, needed: Collection[str] | None = None
) -> Iterator[Chunk]:
    """Read an input in chunks of `rows` good and bad rows, each of one file.

    `needed` restricts the columns of formats that can leave others unread. Raises DataError if the rest of a
    file cannot be read.
    """
    for file in layout.files:
        if not file.types and file.file.format != "json":
            continue
        for chunk in _file_chunks(file, layout.encoding, rows, needed):
            new = {name: [value] * len(chunk.table) for name, value in file.file.partition.items()}
            table = replace(
                chunk.table, columns={**new, **chunk.table.columns} if new else chunk.table.columns
            )
            yield replace(chunk, table=table)


def _file_chunks(
    file: FileLayout, encoding: str | None, rows: int, needed: Collection[str] | None
) -> Iterator[Chunk]:
    if isinstance(file.form, CsvLayout):
        return read_csv(file.file, file.form, encoding=encoding, rows=rows)
    if isinstance(file.form, ArrowLayout):
        return read_arrow(file.file, file.form, rows=rows, needed=needed)
    if file.file.format == "json":
        return read_json(file.file, encoding=encoding, rows=rows)
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
