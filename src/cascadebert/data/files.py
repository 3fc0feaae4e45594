"""Readers and writers of csv, tsv, jsonl and parquet files: cells as they are, a chunk of rows at a time."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from cascadebert.atomic import atomic_file
from cascadebert.errors import DataError, extra

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
READ_ROWS = 1 << 16
SURROGATE = re.compile("[\ud800-\udfff]")  # a byte that is not UTF-8, or half of a pair


@dataclass(frozen=True)
class Table:
    """Columns of equal length; `source` names the table in errors."""

    columns: Mapping[str, list[Any]]  # in file order; cells of csv and tsv are strings
    source: str
    types: Mapping[str, Any] = field(default_factory=dict, compare=False)  # Arrow types, from parquet

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file; row numbers count from 1 without the header."""

    table: Table  # the well-formed rows
    numbers: list[int]  # their row numbers
    bad: list[tuple[int, str]]  # row number and fault of the other rows


def read_table(path: Path) -> Table:
    """Read a complete csv, tsv, jsonl or parquet file.

    Raises DataError if the file is missing, empty, of another format, or not well-formed.
    """
    chunks = list(read_chunks(path, rows=READ_ROWS))
    for chunk in chunks:
        for number, fault in chunk.bad:
            raise DataError(f"{chunk.table.source}, row {number}: {fault}")
    columns: dict[str, list[Any]] = {name: [] for chunk in chunks for name in chunk.table.columns}
    for chunk in chunks:
        for name, cells in columns.items():
            cells.extend(chunk.table.columns.get(name, [None] * len(chunk.table)))
    table = Table(columns, path.name, chunks[0].table.types if chunks else {})
    if len(table) == 0:
        raise DataError(f"{path.name} is empty: expected a header and rows")
    return table


def read_chunks(path: Path, *, rows: int) -> Iterator[Chunk]:
    """Read a file, or a folder of parquet files in order of name, in chunks of `rows` good and bad rows.

    Bytes that are not UTF-8 become lone surrogates, so that a check of the cell can name its row and column.
    A tsv file has no quoting (a quotation mark is text). Raises DataError if there is no such file, its
    format is another, or the rest of it cannot be read (an open quotation mark, a damaged parquet file).
    """
    for file in _files(path):
        suffix = check_format(file)
        if suffix == ".parquet":
            yield from read_parquet(file, rows=rows)
            continue
        newline = "\n" if suffix == ".jsonl" else ""  # other line ends are part of the text in jsonl
        with file.open(encoding="utf-8", errors="surrogateescape", newline=newline) as lines:
            if lines.read(1) != "\ufeff":  # skip a byte-order mark
                lines.seek(0)
            is_jsonl, tabs = suffix == ".jsonl", suffix == ".tsv"
            records = _jsonl_records(lines) if is_jsonl else _csv_records(lines, file.name, tabs)
            yield from _chunks(records, file.name, rows)


def _files(path: Path) -> Sequence[Path]:
    if path.is_dir():
        files = sorted(file for file in path.glob("*.parquet") if file.is_file())
        if not files:
            raise DataError(f"{path} is a folder without parquet files. Give a file, or a folder of parquet.")
        return files
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if check_format(path) != ".parquet":
        check_not_utf16(path)
    return (path,)


def check_format(path: Path, formats: Sequence[str] = FORMATS, alternative: str = "") -> str:
    """Lower-case suffix of a path. Raises DataError if it is not among the formats."""
    suffix = path.suffix.lower()
    if suffix not in formats:
        raise DataError(f"{path}: expected a file ending in {', '.join(formats)}{alternative}")
    return suffix


def check_not_utf16(path: Path) -> None:
    """Raise DataError if the file starts with a byte-order mark of UTF-16 or UTF-32."""
    with path.open("rb") as raw:
        if raw.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{path.name} is UTF-16 or UTF-32. Save it as UTF-8.")


def _chunks(records: Iterator[dict[str, Any] | str], source: str, rows: int) -> Iterator[Chunk]:
    """Chunks of records, of which a string is the fault of a bad row."""
    first = 1
    while batch := list(islice(records, rows)):
        bad = [(i, record) for i, record in enumerate(batch, first) if isinstance(record, str)]
        good = {i: record for i, record in enumerate(batch, first) if not isinstance(record, str)}
        names = dict.fromkeys(name for record in good.values() for name in record)
        columns = {name: [record.get(name) for record in good.values()] for name in names}
        yield Chunk(Table(columns, source), list(good), bad)
        first += len(batch)


def _csv_records(lines: TextIO, source: str, tabs: bool) -> Iterator[dict[str, Any] | str]:
    advice = "A tab inside a cell cannot be kept in tsv." if tabs else "Quote cells that hold commas."
    limit = csv.field_size_limit(2**31 - 1)  # texts that are too long are rejected later, by row and column
    tsv = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    number = 0
    try:
        reader = csv.reader(lines, **(tsv if tabs else {"strict": True}))
        header = next(reader if tabs else filter(None, reader), [])
        if len(set(header)) < len(header):
            raise DataError(f"{source}: the header names a column twice: {', '.join(header)}")
        expected = f"but the header names {len(header)} columns ({', '.join(header)}). {advice}"
        blank = [""] if tabs and len(header) == 1 else []  # a blank line is an empty cell, or no row
        for row in filter(None, (row or blank for row in reader)):
            number += 1
            is_good = len(row) == len(header)
            yield dict(zip(header, row, strict=True)) if is_good else f"{len(row)} cells, {expected}"
    except csv.Error as error:
        raise DataError(
            f"{source}, row {number + 1}: {error}. Look for a quotation mark that is not closed or not "
            "doubled."
        ) from error
    finally:
        csv.field_size_limit(limit)


def _jsonl_records(lines: TextIO) -> Iterator[dict[str, Any] | str]:
    for line in filter(str.strip, lines):
        try:
            yield parse_json_line(line)
        except ValueError as error:
            yield str(error)


def parse_json_line(line: str) -> dict[str, Any]:
    """The object in a line of jsonl. Raises ValueError with the fault if there is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(record, dict):
        raise ValueError("expected an object, one per line")
    return record


def read_parquet(
    path: Path, *, rows: int, select: Callable[[Sequence[str]], Sequence[str]] | None = None
) -> Iterator[Chunk]:
    """Read a parquet file in chunks: all columns, or those of the names that `select` returns.

    Raises DataError if the file is damaged or names a column twice.
    """
    with extra("tune"):
        import pyarrow
        import pyarrow.parquet
    first = 1
    try:
        with pyarrow.parquet.ParquetFile(path) as source:
            schema = source.schema_arrow
            types = dict(zip(schema.names, schema.types, strict=True))
            if len(types) < len(schema.names):
                raise DataError(f"{path.name}: it names a column twice: {', '.join(schema.names)}")
            columns = None if select is None else list(select(schema.names))
            for batch in source.iter_batches(rows, columns=columns):
                numbers = list(range(first, first + len(batch)))
                yield Chunk(Table(batch.to_pydict(), path.name, types), numbers, [])
                first += len(batch)
    except (pyarrow.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: not a readable parquet file ({error})") from error


def count_parquet_rows(files: Sequence[Path]) -> int:
    """Total rows of parquet files, from their footers."""
    with extra("tune"):
        import pyarrow.parquet
    return sum(int(pyarrow.parquet.read_metadata(file).num_rows) for file in files)


def ensure_writable_file(path: Path, *, overwrite: bool) -> None:
    """Check an output before any costly work.

    Raises DataError if its format is unknown, it exists and `overwrite` is false, or its folder is missing.
    """
    check_format(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a file to write")
    if path.exists() and not overwrite:
        raise DataError(f"{path} exists already. Choose another output, or replace it with --overwrite.")
    if not path.absolute().parent.is_dir():
        raise DataError(f"{path}: the folder {path.absolute().parent} does not exist. Create it first.")


def write_table(table: Table, path: Path) -> None:
    """Write a table atomically in the format of the suffix, replacing an existing file.

    Raises DataError if the format is unknown or cannot hold a cell.
    """
    suffix = check_format(path)
    try:
        with atomic_file(path) as temporary:
            (_write_parquet if suffix == ".parquet" else _write_text)(table, temporary)
    except (TypeError, ValueError) as error:  # includes the errors of pyarrow and of encodings
        raise DataError(f"{path.name}: {suffix} cannot hold a cell of {table.source} ({error})") from error


def join_parts(parts: Sequence[Path], path: Path, *, columns: Sequence[str]) -> None:
    """Concatenate files of `write_table`, at least one, of one format and with the same columns, atomically.

    Raises DataError if parquet files have columns of types that cannot be unified.
    """
    suffix = check_format(path)
    with atomic_file(path) as temporary:
        if suffix == ".parquet":
            _join_parquet(parts, temporary, path.name)
            return
        header = "".join(_lines(Table({name: [] for name in columns}, ""), suffix))
        skip = len(header.encode(errors="surrogateescape"))
        with temporary.open("wb") as target:
            for i, part in enumerate(parts):
                target.write(part.read_bytes()[skip if i else 0 :])


def _write_parquet(table: Table, path: Path) -> None:
    with extra("tune"):
        import pyarrow
        import pyarrow.parquet
    columns = {name: pyarrow.array(cells, table.types.get(name)) for name, cells in table.columns.items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _write_text(table: Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.writelines(_lines(table, path.suffix.lower()))


def _join_parquet(parts: Sequence[Path], path: Path, name: str) -> None:
    with extra("tune"):
        import pyarrow
        import pyarrow.parquet
    try:
        schemas = [pyarrow.parquet.read_schema(part) for part in parts]
        schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        with pyarrow.parquet.ParquetWriter(path, schema) as target:
            for part in parts:
                target.write_table(pyarrow.parquet.read_table(part).cast(schema))
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise DataError(
            f"{name}: the type of a column changes between rows ({error}). Write jsonl, which holds any type."
        ) from error


def _lines(table: Table, suffix: str) -> Iterator[str]:
    """Lines of a text format with their line breaks, the header first where it has one."""
    names, rows = list(table.columns), zip(*table.columns.values(), strict=True)
    if suffix == ".jsonl":
        yield from (_json_line(dict(zip(names, row, strict=True))) for row in rows)
        return
    separator, quote = ("\t", _tsv_cell) if suffix == ".tsv" else (",", _csv_cell)
    for row in (names, *rows):
        line = separator.join(quote("" if cell is None else str(cell)) for cell in row)
        yield (line or ("" if suffix == ".tsv" else '""')) + "\n"


def _json_line(record: dict[str, Any]) -> str:
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can represent
        line = json.dumps(record)
    return line + "\n"


def _csv_cell(cell: str) -> str:
    # the csv module does not quote a lone carriage return before Python 3.13
    return '"' + cell.replace('"', '""') + '"' if re.search('[,"\r\n]', cell) else cell


def _tsv_cell(cell: str) -> str:
    if re.search("[\t\r\n]", cell):
        raise DataError("a cell holds a tab or a line break, which tsv cannot represent. Write csv or jsonl.")
    return cell
