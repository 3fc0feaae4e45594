"""Writers of csv, tsv, jsonl and parquet files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cascadebert.atomic import atomic_file
from cascadebert.data.files import check_format
from cascadebert.data.table import Table
from cascadebert.errors import DataError, extra


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
