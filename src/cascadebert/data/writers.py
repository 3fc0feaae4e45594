"""Files out: tables in csv, tsv, jsonl and parquet, whole or in parts that are joined."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cascadebert.atomic import atomic_file
from cascadebert.data.readers import FORMATS, Table
from cascadebert.errors import DataError, extra


def ensure_writable_file(path: Path, *, overwrite: bool) -> None:
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
    try:
        with atomic_file(path) as aside:
            _write(table, aside, _ending(path))
    except (TypeError, ValueError) as error:  # pyarrow's and Unicode's errors are of these kinds
        what = f"{_ending(path)} cannot hold a cell of {table.source}"
        raise DataError(f"{path.name}: {what} ({error})") from error


def join_parts(parts: Sequence[Path], path: Path, *, columns: Sequence[str]) -> None:
    """Lay files written by `write_table`, all of one format and with the same columns, end to end.

    Args:
        parts: the files, in order; at least one.
        columns: their columns.
        path: written aside first and then renamed.

    Raises:
        DataError: if columns of parquet files are of types that do not go together.
    """
    with atomic_file(path) as aside:
        if _ending(path) == ".parquet":
            _join_parquet(parts, aside, path.name)
        else:
            _join_text(parts, aside, _header(columns, _ending(path)))


def _header(columns: Sequence[str], ending: str) -> bytes:
    if ending == ".jsonl":
        return b""
    lines = _csv_lines if ending == ".csv" else _tsv_lines
    return f"{next(lines(Table({name: [] for name in columns}, '')))}\n".encode(errors="surrogateescape")


def _join_text(parts: Sequence[Path], whole: Path, header: bytes) -> None:
    with whole.open("wb") as target:
        for number, part in enumerate(parts):
            with part.open("rb") as source:
                source.seek(len(header) if number else 0)
                shutil.copyfileobj(source, target)


def _join_parquet(parts: Sequence[Path], whole: Path, name: str) -> None:
    with extra("tune"):
        import pyarrow
        import pyarrow.parquet
    try:
        schemas = [pyarrow.parquet.read_schema(part) for part in parts]
        schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        with pyarrow.parquet.ParquetWriter(whole, schema) as target:
            for part in parts:
                target.write_table(pyarrow.parquet.read_table(part).cast(schema))
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise DataError(
            f"{name}: a column changes its type on the way ({error}). Write jsonl, which holds any type."
        ) from error


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _write(table: Table, path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        with extra("tune"):
            import pyarrow
            import pyarrow.parquet
        columns = {name: pyarrow.array(cells, table.types.get(name)) for name, cells in table.columns.items()}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
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
