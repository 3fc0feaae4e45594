"""Files in: csv, tsv, jsonl and parquet as columns of cells, some rows at a time, nothing interpreted."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from cascadebert.errors import DataError, extra

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Table:
    """Columns of equal length, as read.

    Attributes:
        columns: name to cells, in file order. Cells of csv and tsv are strings.
        source: what to call the table in messages.
        types: Arrow types of the columns that came from parquet.
    """

    columns: Mapping[str, list[Any]]
    source: str
    types: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file, in order.

    Attributes:
        table: the rows that are well-formed.
        numbers: their row numbers, counted from 1 without the header.
        bad: number and fault of each row that is not.
    """

    table: Table
    numbers: list[int]
    bad: list[tuple[int, str]]


def read_table(path: Path) -> Table:
    """Read a whole csv, tsv, jsonl or parquet file.

    Args:
        path: its ending tells the format.

    Raises:
        DataError: if the file is absent, empty, of another format, or not well-formed.
    """
    _check(path)
    chunks = list(read_chunks(path, rows=1 << 16))
    for chunk in chunks:
        for number, fault in chunk.bad:
            raise DataError(f"{chunk.table.source}, row {number}: {fault}")
    names = dict.fromkeys(name for chunk in chunks for name in chunk.table.columns)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for chunk in chunks:
        for name, cells in columns.items():
            cells.extend(chunk.table.columns.get(name, [None] * len(chunk.table)))
    table = Table(columns, path.name, chunks[0].table.types if chunks else {})
    if len(table) == 0:
        raise DataError(f"{path.name} is empty: expected a header and rows")
    return table


def read_chunks(path: Path, *, rows: int) -> Iterator[Chunk]:
    """Read a file in chunks, with memory for one of them.

    Bytes that are not UTF-8 are kept as lone surrogates, so that whoever looks at a cell can name its
    row and column; a tsv file has no quoting (a quotation mark is text).

    Args:
        path: a csv, tsv, jsonl or parquet file, or a folder of parquet files, taken in order of name.
        rows: of a chunk, good and bad together.

    Raises:
        DataError: if there is no such file, its format is another, or it cannot be read on (an open
            quotation mark, a damaged parquet file).
    """
    for file in _check(path):
        if _ending(file) == ".parquet":
            yield from _parquet_chunks(file, rows)
        else:
            json_lines = _ending(file) == ".jsonl"  # only a line feed ends one of their lines
            newline = "\n" if json_lines else ""
            with file.open(encoding="utf-8", errors="surrogateescape", newline=newline) as lines:
                yield from (_jsonl_chunks if json_lines else _csv_chunks)(lines, file, rows)


def _check(path: Path) -> Sequence[Path]:
    """The files behind a path."""
    if path.is_dir():
        files = sorted(file for file in path.glob("*.parquet") if file.is_file())
        if not files:
            raise DataError(f"{path} is a folder without parquet files. Give a file, or a folder of parquet.")
        return files
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if _ending(path) not in FORMATS:
        raise DataError(f"{path}: expected a file ending in {', '.join(FORMATS)}")
    with path.open("rb") as raw:
        if _ending(path) != ".parquet" and raw.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{path.name} is UTF-16. Save it as UTF-8.")
    return (path,)


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _skip_mark(lines: TextIO) -> None:
    """Step over a byte-order mark."""
    if lines.read(1) != "\ufeff":
        lines.seek(0)


def _csv_chunks(lines: TextIO, path: Path, rows: int) -> Iterator[Chunk]:
    tabs = _ending(path) == ".tsv"
    limit = csv.field_size_limit(2**31 - 1)  # long texts are refused later, by row and column
    done, body = 0, []
    try:
        _skip_mark(lines)
        reader = _csv_rows(lines, tabs)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise DataError(f"{path.name}: the header names a column twice: {', '.join(header)}")
        for row in reader:
            body.append(row)
            if len(body) == rows:
                yield _csv_chunk(body, header, done, path, tabs)
                done, body = done + len(body), []
        if body:
            yield _csv_chunk(body, header, done, path, tabs)
    except csv.Error as error:
        raise DataError(
            f"{path.name}, row {done + len(body) + 1}: {error}. Look for a quotation mark that is not closed "
            "or not doubled."
        ) from error
    finally:
        csv.field_size_limit(limit)


def _csv_rows(lines: TextIO, tabs: bool) -> Iterator[list[str]]:
    """Rows of cells, blank lines left out; in a file of one column of tsv they are empty cells."""
    if not tabs:
        yield from filter(None, csv.reader(lines, strict=True))
        return
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(reader, [])
    yield header
    yield from (row or [""] for row in reader if row or len(header) == 1)


def _csv_chunk(body: list[list[str]], header: list[str], done: int, path: Path, tabs: bool) -> Chunk:
    advice = "A tab inside a cell cannot be kept in tsv." if tabs else "Quote cells that hold commas."
    good, bad = [], []
    for number, row in enumerate(body, start=done + 1):
        if len(row) == len(header):
            good.append((number, row))
            continue
        told = f"{len(row)} cells, but the header names {len(header)} columns ({', '.join(header)}). {advice}"
        bad.append((number, told))
    columns = {name: [row[i] for _, row in good] for i, name in enumerate(header)}
    return Chunk(Table(columns, path.name), [number for number, _ in good], bad)


def _jsonl_chunks(lines: TextIO, path: Path, rows: int) -> Iterator[Chunk]:
    _skip_mark(lines)
    done = 0
    filled = (line for line in lines if line.strip())
    while some := list(islice(filled, rows)):
        yield _jsonl_chunk(some, done, path)
        done += len(some)


def _jsonl_chunk(lines: list[str], done: int, path: Path) -> Chunk:
    good: list[tuple[int, dict[str, Any]]] = []
    bad = []
    for number, line in enumerate(lines, start=done + 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad.append((number, f"not JSON ({error})"))
            continue
        if isinstance(record, dict):
            good.append((number, record))
        else:
            bad.append((number, "expected an object, one per line"))
    names = dict.fromkeys(name for _, record in good for name in record)
    columns = {name: [record.get(name) for _, record in good] for name in names}
    return Chunk(Table(columns, path.name), [number for number, _ in good], bad)


def _parquet_chunks(path: Path, rows: int) -> Iterator[Chunk]:
    with extra("tune"):
        import pyarrow
        import pyarrow.parquet
    done = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as source:
            schema = source.schema_arrow
            types = dict(zip(schema.names, schema.types, strict=True))
            if len(types) < len(schema.names):
                raise DataError(f"{path.name}: it names a column twice: {', '.join(schema.names)}")
            for batch in source.iter_batches(rows):
                numbers = list(range(done + 1, done + len(batch) + 1))
                yield Chunk(Table(batch.to_pydict(), path.name, types), numbers, [])
                done += len(batch)
    except (pyarrow.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: not a readable parquet file ({error})") from error


def count_parquet_rows(files: Sequence[Path]) -> int:
    """Rows of parquet files, from their footers."""
    with extra("tune"):
        import pyarrow.parquet
    return sum(int(pyarrow.parquet.read_metadata(file).num_rows) for file in files)
