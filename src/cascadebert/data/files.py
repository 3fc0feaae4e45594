"""Readers and writers of csv, tsv, jsonl and parquet files: cells as they are, a chunk of rows at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from cascadebert.data.labels import declared_names
from cascadebert.data.table import Chunk, Table
from cascadebert.errors import DataError, extra

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
READ_ROWS = 1 << 16


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
    first = chunks[0].table if chunks else Table({}, path.name)
    table = Table(columns, path.name, first.types, first.declared)
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
            declared = declared_names(schema.metadata)
            if len(types) < len(schema.names):
                raise DataError(f"{path.name}: it names a column twice: {', '.join(schema.names)}")
            columns = None if select is None else list(select(schema.names))
            for batch in source.iter_batches(rows, columns=columns):
                numbers = list(range(first, first + len(batch)))
                yield Chunk(Table(batch.to_pydict(), path.name, types, declared), numbers, [])
                first += len(batch)
    except (pyarrow.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: not a readable parquet file ({error})") from error


def count_parquet_rows(files: Sequence[Path]) -> int:
    """Total rows of parquet files, from their footers."""
    with extra("tune"):
        import pyarrow.parquet
    return sum(int(pyarrow.parquet.read_metadata(file).num_rows) for file in files)
