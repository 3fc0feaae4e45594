"""Writers of csv, tsv, jsonl and parquet files: each cell in the form that its format defines."""

from __future__ import annotations

import gzip
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import IO, Any

from cascadebert.atomic import atomic_file
from cascadebert.data.arrow_cells import python_cells
from cascadebert.data.column_types import PARQUET, arrow_column, check_parquet_holds
from cascadebert.data.files import COMPRESSIONS
from cascadebert.data.table import MISSING, ColumnType, Table, unique_names
from cascadebert.data.text_cells import BREAKS, escape, json_text, plain_text
from cascadebert.errors import DataError, extra, reason

OUTPUT_FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

_CSV_SPECIAL = re.compile('[,"\r\n\ufeff]')  # the csv module quotes no lone carriage return before 3.13
_CSV_SPECIAL_NAME = re.compile('[,;|\t"\r\n]|^\ufeff|^sep=')  # or the header looks like another delimiter's
_TSV_SPECIAL = re.compile("[\t\r\n]").search
_TSV_ESCAPES = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r"})


def output_format(path: Path) -> tuple[str, str]:
    """Suffix of the format of an output and, if it is to be compressed, that of the compression.

    Raises DataError if the format is unknown.

    >>> output_format(Path("answers.csv.gz")), output_format(Path("answers.ndjson"))
    (('.csv', '.gz'), ('.jsonl', ''))
    """
    suffix = path.suffix.lower()
    compression = suffix if suffix in COMPRESSIONS else ""
    suffix = Path(path.stem).suffix.lower() if compression else suffix
    if suffix not in OUTPUT_FORMATS or (compression and suffix == ".parquet"):
        raise DataError(
            f"{path}: expected a file ending in {', '.join(OUTPUT_FORMATS)}; after those of text also "
            f"{' or '.join(COMPRESSIONS)}"
        )
    return ".jsonl" if suffix == ".ndjson" else suffix, compression


def write_table(table: Table, path: Path, types: Mapping[str, ColumnType] | None = None) -> Counter[str]:
    """Write a table atomically in the format of the suffix, replacing an existing file.

    `types` are those of the whole output where the table is a part of it, so that all parts get one parquet
    schema. Returns how many cells and names were escaped, by what they held. Raises DataError if the format
    is unknown or parquet cannot hold a value.
    """
    suffix, _ = output_format(path)
    notes = Counter[str]()
    with atomic_file(path) as temporary:
        if suffix == ".parquet":
            _write_parquet(table, temporary, types or {}, notes)
        else:
            with _text_file(temporary) as file:
                _write_lines(_lines(table, suffix, notes), file)
    return notes


def join_parts(parts: Sequence[Path], path: Path, *, columns: Sequence[str]) -> None:
    """Concatenate files of `write_table`, at least one, atomically.

    The parts have the format of the output without compression, its columns and, in parquet, its types.
    """
    suffix, _ = output_format(path)
    with atomic_file(path) as temporary:
        if suffix == ".parquet":
            _join_parquet(parts, temporary)
        else:
            _join_text(parts, temporary, _lines(Table({name: [] for name in columns}, ""), suffix, Counter()))


@contextmanager
def _text_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file, compressed if its name says so; the same content gives the same bytes."""
    with path.open("wb") as file, _compressed(file, output_format(path)[1]) as target:
        yield target


def _compressed(file: IO[bytes], compression: str) -> AbstractContextManager[Any]:
    if not compression:
        return nullcontext(file)
    if compression == ".gz":
        return gzip.GzipFile("", "wb", 6, file, mtime=0)
    with extra("tune"):
        import pyarrow
    stream: AbstractContextManager[Any] = pyarrow.CompressedOutputStream(file, "zstd")
    return stream


def _write_lines(lines: Iterator[str], file: IO[bytes]) -> None:
    while block := "".join(islice(lines, 1000)):
        file.write(block.encode("utf-8", "surrogateescape"))


def _lines(table: Table, suffix: str, notes: Counter[str]) -> Iterator[str]:
    """Lines of a text format with their line breaks, the header first where it has one."""
    if suffix == ".jsonl":
        return _json_lines(table, notes)
    return (_tsv_lines if suffix == ".tsv" else _csv_lines)(table, notes)


def _json_lines(table: Table, notes: Counter[str]) -> Iterator[str]:
    names = unique_names(escape(name, notes) for name in table.columns)
    keys = [f"{json_text(name, notes)}: " for name in names]
    pairs = [
        _json_pairs(key, _python_cells(column), notes)
        for key, column in zip(keys, table.columns.values(), strict=True)
    ]
    for row in zip(*pairs, strict=True):
        yield f"{{{', '.join(filter(None, row))}}}\n"


def _json_pairs(key: str, cells: list[Any], notes: Counter[str]) -> list[str]:
    """Key and value of each cell; nothing for a key that is missing."""
    if set(map(type, cells)) == {int}:  # by column where that is faster
        return [f"{key}{cell}" for cell in cells]
    return ["" if cell is MISSING else key + json_text(cell, notes) for cell in cells]


def _csv_lines(table: Table, notes: Counter[str]) -> Iterator[str]:
    names = unique_names(_texts(list(table.columns), notes))
    header = [_csv_quoted(name) if _CSV_SPECIAL_NAME.search(name) else name for name in names]
    columns = [_csv_cells(_texts(column, notes)) for column in table.columns.values()]
    for cells in chain([header], zip(*columns, strict=True)):
        yield (",".join(cells) or '""') + "\n"


def _csv_cells(texts: list[str]) -> list[str]:
    if not _CSV_SPECIAL.search("".join(texts)):
        return texts
    return [_csv_quoted(text) if _CSV_SPECIAL.search(text) else text for text in texts]


def _csv_quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _tsv_lines(table: Table, notes: Counter[str]) -> Iterator[str]:
    names, *columns = [
        [_without_breaks(text, notes) if _TSV_SPECIAL(text) else text for text in _texts(column, notes)]
        for column in (list(table.columns), *table.columns.values())
    ]
    for cells in chain([unique_names(names)], zip(*columns, strict=True)):
        yield "\t".join(cells) + "\n"


def _without_breaks(text: str, notes: Counter[str]) -> str:
    notes[BREAKS] += 1
    return text.translate(_TSV_ESCAPES)


def _texts(column: Any, notes: Counter[str]) -> list[str]:
    """Cells as text; bytes that are not UTF-8 go through from text files, not from Arrow."""
    cells = _python_cells(column)
    kinds = set(map(type, cells))
    if kinds == {int} or (kinds == {float} and isfinite(sum(cells))):
        return list(map(repr, cells))
    texts = cells if kinds == {str} else [plain_text(cell, notes) for cell in cells]
    if "".join(texts).isascii():
        return texts
    return [escape(text, notes, keep_bytes=isinstance(column, list)) for text in texts]


def _python_cells(column: Any) -> list[Any]:
    return column if isinstance(column, list) else python_cells(column)


def _write_parquet(table: Table, path: Path, types: Mapping[str, ColumnType], notes: Counter[str]) -> None:
    with extra("tune"):
        import pyarrow.parquet
    arrays = []
    for name, column in table.columns.items():
        try:
            arrays.append(arrow_column(column, types.get(name), notes))
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{table.source}: the column '{name:.80}' holds a value that is not of its type "
                f"({reason(error):.160}). Write jsonl, which holds any value."
            ) from error
    names = unique_names(escape(name, notes) for name in table.columns)
    arrow = pyarrow.table(arrays, list(names))
    try:
        _write_arrow(arrow, path)
    except pyarrow.ArrowException:
        check_parquet_holds(arrow, table.source)
        raise


def _write_arrow(arrow: Any, path: Path) -> None:
    with extra("tune"):
        import pyarrow.parquet
    try:
        pyarrow.parquet.write_table(arrow, path, **PARQUET)
    except pyarrow.ArrowNotImplementedError:  # of slices of some types
        columns = [pyarrow.concat_arrays(column.chunks) for column in arrow.columns]
        pyarrow.parquet.write_table(pyarrow.table(columns, arrow.column_names), path, **PARQUET)


def _join_text(parts: Sequence[Path], path: Path, header: Iterator[str]) -> None:
    size = len("".join(header).encode("utf-8", "surrogateescape"))
    with _text_file(path) as target:
        for i, part in enumerate(parts):
            with part.open("rb") as source:
                source.seek(size if i else 0)
                shutil.copyfileobj(source, target)


def _join_parquet(parts: Sequence[Path], path: Path) -> None:
    with extra("tune"):
        import pyarrow.parquet
    with pyarrow.parquet.ParquetWriter(path, pyarrow.parquet.read_schema(parts[0]), **PARQUET) as target:
        for group in chain.from_iterable(map(_row_groups, parts)):
            target.write_table(group)


def _row_groups(path: Path) -> Iterator[Any]:
    with extra("tune"):
        import pyarrow.parquet
    with pyarrow.parquet.ParquetFile(path) as source:
        for i in range(source.num_row_groups):
            if source.metadata.row_group(i).num_rows:  # pyarrow may crash on a group without rows
                yield source.read_row_group(i)
