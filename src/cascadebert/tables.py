"""Files in and out: csv, tsv, jsonl and parquet as columns of cells, nothing interpreted yet."""

from __future__ import annotations

import csv
import io
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascadebert.errors import DataError, extra

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Table:
    """Columns of equal length, as read.

    Attributes:
        columns: name to cells, in file order. Cells of csv and tsv are strings.
        source: what to call the table in messages.
    """

    columns: Mapping[str, list[Any]]
    source: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


def read_table(path: Path) -> Table:
    """Read a csv, tsv, jsonl or parquet file.

    Bytes that are not UTF-8 are kept as lone surrogates, so that whoever looks at a cell can name its
    row and column; a tsv file has no quoting (a quotation mark is text).

    Args:
        path: its ending tells the format.

    Raises:
        DataError: if the file is absent, empty, of another format, or not well-formed.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if _ending(path) not in FORMATS:
        raise DataError(f"{path}: expected a file ending in {', '.join(FORMATS)}")
    columns = _read_parquet(path) if _ending(path) == ".parquet" else _read_text(path)
    table = Table(columns, path.name)
    if len(table) == 0:
        raise DataError(f"{path.name} is empty: expected a header and rows")
    return table


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that could not be written later, before anything costly is done.

    Raises:
        DataError: if its ending is no known format, it exists and `overwrite` is false, or its folder
            does not exist.
    """
    if _ending(path) not in FORMATS:
        raise DataError(f"{path}: expected a file ending in {', '.join(FORMATS)}")
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a file to write")
    if path.exists() and not overwrite:
        raise DataError(f"{path} exists already. Choose another output, or replace it with --overwrite.")
    if not path.absolute().parent.is_dir():
        raise DataError(f"{path}: the folder {path.absolute().parent} does not exist. Make it first.")


def write_table(table: Table, path: Path) -> None:
    """Write a table in the format of the file's ending, aside first and then renamed.

    Args:
        table: what to write.
        path: replaced if it exists.

    Raises:
        DataError: if the ending is no known format, or the format cannot hold a cell.
    """
    if _ending(path) not in FORMATS:
        raise DataError(f"{path}: expected a file ending in {', '.join(FORMATS)}")
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write(table, aside, _ending(path))
        aside.replace(path)
    except (TypeError, ValueError) as error:  # pyarrow's and Unicode's errors are of these kinds
        what = f"{_ending(path)} cannot hold a cell of {table.source}"
        raise DataError(f"{path.name}: {what} ({error})") from error
    finally:
        aside.unlink(missing_ok=True)


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _read_text(path: Path) -> dict[str, list[Any]]:
    raw = path.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path.name} is UTF-16. Save it as UTF-8.")
    text = raw.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    if _ending(path) == ".jsonl":
        return _read_jsonl(text, path.name)
    return _read_csv(text, path)


def _read_csv(text: str, path: Path) -> dict[str, list[Any]]:
    tabs = _ending(path) == ".tsv"
    rows: list[list[str]] = []
    limit = csv.field_size_limit(2**31 - 1)  # long texts are refused later, by row and column
    try:
        rows.extend(_csv_rows(text, tabs))
    except csv.Error as error:
        raise DataError(
            f"{path.name}, row {max(len(rows), 1)}: {error}. Look for a quotation mark that is not closed "
            "or not doubled."
        ) from error
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise DataError(f"{path.name} is empty: expected a header and rows")
    header, *body = rows
    if len(set(header)) < len(header):
        raise DataError(f"{path.name}: the header names a column twice: {', '.join(header)}")
    for number, row in enumerate(body, start=1):
        if len(row) != len(header):
            raise DataError(
                f"{path.name}, row {number}: {len(row)} cells, but the header names {len(header)} columns "
                f"({', '.join(header)}). "
                + ("A tab inside a cell cannot be kept in tsv." if tabs else "Quote cells that hold commas.")
            )
    return {name: [row[i] for row in body] for i, name in enumerate(header)}


def _csv_rows(text: str, tabs: bool) -> Iterator[list[str]]:
    """Rows of cells, blank lines left out; in a file of one column of tsv they are empty cells."""
    lines = io.StringIO(text, newline="")
    if not tabs:
        yield from filter(None, csv.reader(lines, strict=True))
        return
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(reader, [])
    yield header
    yield from (row or [""] for row in reader if row or len(header) == 1)


def _read_jsonl(text: str, source: str) -> dict[str, list[Any]]:
    records: list[dict[str, Any]] = []
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}, row {len(records) + 1}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise DataError(f"{source}, row {len(records) + 1}: expected an object, one per line")
        records.append(record)
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(record))
    return {name: [record.get(name) for record in records] for name in names}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    with extra("tune"):
        import pyarrow
        import pyarrow.parquet
    try:
        table = pyarrow.parquet.read_table(path)
        return dict(table.to_pydict())
    except (pyarrow.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: not a readable parquet file ({error})") from error


def _write(table: Table, path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        with extra("tune"):
            import pyarrow
            import pyarrow.parquet
        pyarrow.parquet.write_table(pyarrow.table(dict(table.columns)), path)
        return
    lines = {".jsonl": _json_lines, ".tsv": _tsv_lines, ".csv": _csv_lines}[suffix](table)
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.writelines(f"{line}\n" for line in lines)


def _json_lines(table: Table) -> Iterator[str]:
    names = list(table.columns)
    return (_json_line(dict(zip(names, row, strict=True))) for row in _rows(table))


def _json_line(record: dict[str, Any]) -> str:
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return json.dumps(record)
    return line


def _csv_cell(cell: Any) -> str:
    """Quoted where needed; the writer of Python leaves a lone carriage return bare before 3.13."""
    text = "" if cell is None else str(cell)
    return '"' + text.replace('"', '""') + '"' if re.search('[,"\r\n]', text) else text


def _csv_lines(table: Table) -> Iterator[str]:
    for row in [tuple(table.columns), *_rows(table)]:
        yield ",".join(map(_csv_cell, row)) or '""'


def _tsv_lines(table: Table) -> Iterator[str]:
    for row in [tuple(table.columns), *_rows(table)]:
        cells = ["" if cell is None else str(cell) for cell in row]
        if any(re.search("[\t\r\n]", cell) for cell in cells):
            raise DataError("a cell holds a tab or a line break, which tsv cannot carry. Write csv or jsonl.")
        yield "\t".join(cells)


def _rows(table: Table) -> Iterable[tuple[Any, ...]]:
    return zip(*table.columns.values(), strict=True)
