"""Outputs of generated files against what a right reader finds in them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from generated import ADDED, Case, Cell, Row, escaped
from generated_arrow import read_back

NOTHING = Cell("", None)


class Wrong(Exception):
    """Something other than expected."""


def unpacked(content: bytes, suffix: str) -> bytes:
    """An output without its compression."""
    if suffix.endswith(".zst"):
        return bytes(pa.CompressedInputStream(pa.BufferReader(content), "zstd").read())
    return gzip.decompress(content) if suffix.endswith(".gz") else content


def output_names(columns: Sequence[str]) -> list[str]:
    """Names in the output, where those of the added columns are taken."""
    found = []
    for name in columns:
        new = name
        while new in ADDED or (new != name and new in columns):
            new = f"input_{new}"
        found.append(new)
    return [*found, *ADDED]


def same(what: str, found: Any, expected: Any) -> None:
    """Raise Wrong where two things differ."""
    if found != expected:
        raise Wrong(f"predict: {what}: {found!r:.300}, expected {expected!r:.300}")


def same_added(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Compare label, confidence and stage."""
    label, confidence, stage = found
    if (label, int(stage)) != (expected[0], expected[2]) or abs(float(confidence) - expected[1]) > 1e-5:
        raise Wrong(f"predict: answers {found}, expected {expected}")


Added = Sequence[tuple[str, float, int]]


def check_cells(
    case: Case, good: Sequence[Row], added: Added, table: Sequence[Sequence[str]], form: Any
) -> None:
    """Compare a table of text."""
    same("header", table[0], [form(name) for name in output_names(case.columns)])
    same("rows", len(table) - 1, len(good))
    for cells, row, answer in zip(table[1:], good, added, strict=True):
        same("cells in a row", len(cells), len(table[0]))
        for name, found in zip(case.columns, cells, strict=False):
            cell = row.cells.get(name, NOTHING)
            is_same = cell.is_json and value_of(found) == value_of(cell.text)
            if not is_same:
                same(f"column {name!r}", found, form(cell.text))
        same_added(cells[-3:], answer)


def check_csv(case: Case, good: Sequence[Row], added: Added, content: bytes) -> None:
    """Compare a csv file."""
    text = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
    csv.field_size_limit(1 << 30)
    check_cells(case, good, added, list(csv.reader(text, strict=True)), str)


def check_tsv(case: Case, good: Sequence[Row], added: Added, content: bytes) -> None:
    """Compare a tsv file, in which tabs and line breaks are spelled out."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    same("end", lines.pop(), "")
    escapes = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r"})
    check_cells(case, good, added, [line.split("\t") for line in lines], lambda text: text.translate(escapes))


def value_of(raw: str) -> Any:
    """A value of strict JSON in which no two different values are equal, or None if it is not JSON."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    def number(digits: str) -> tuple[str, Decimal]:
        return "number", Decimal(digits)

    def pairs(found: Any) -> tuple[str, Any]:
        return "object", found

    try:
        return json.loads(
            raw, parse_int=number, parse_float=number, parse_constant=refuse, object_pairs_hook=pairs
        )
    except ValueError:
        return "not JSON"


def check_jsonl(case: Case, good: Sequence[Row], added: Added, content: bytes) -> None:
    """Compare JSON lines."""
    lines = content.decode("utf-8").split("\n")
    same("end", lines.pop(), "")
    same("rows", len(lines), len(good))
    names = list(map(escaped, output_names(case.columns)))
    for line, row, answer in zip(lines, good, added, strict=True):
        cells = [row.cells.get(name, NOTHING) for name in case.columns]
        expected = [
            (n, value_of(cell.json)) for n, cell in zip(names, cells, strict=False) if cell.json is not None
        ]
        kind, found = value_of(line)
        same("line", kind, "object")
        same("object", found[:-3], expected)
        same("added names", [name for name, _ in found[-3:]], list(ADDED))
        (_, label), (_, (_, confidence)), (_, (_, stage)) = found[-3:]
        same_added((label, confidence, stage), answer)


def check_parquet(case: Case, good: Sequence[Row], added: Added, content: bytes) -> None:
    """Compare a parquet file."""
    table = pq.read_table(io.BytesIO(content))
    same("columns", table.column_names, list(map(escaped, output_names(case.columns))))
    same("rows", table.num_rows, len(good))
    same("types", table.schema.types[-3:], [pa.string(), pa.float64(), pa.int64()])
    answers = zip(*(column.to_pylist() for column in table.columns[-3:]), strict=True)
    for answer, expected in zip(answers, added, strict=True):
        same_added(answer, expected)
    if case.arrow is not None:
        kept = [case.arrow.slice(i, 1) for i, row in enumerate(case.rows) if not row.fault]
        one = pa.concat_tables([case.arrow.slice(0, 0), *kept]).combine_chunks()
        same_arrow(table, read_back(one))
        return
    for name, column in zip(case.columns, table.columns, strict=False):
        same_values(name, column, [row.cells.get(name, NOTHING) for row in good], case)


def same_arrow(table: pa.Table, expected: pa.Table) -> None:
    """Compare columns of any type, value by value as Arrow prints them."""
    for i, column in enumerate(expected.columns):
        same(f"type of {expected.column_names[i]!r}", table.column(i).type, column.type)
        texts = [
            one.combine_chunks().to_string(window=1000, container_window=1000)
            for one in (table.column(i), column)
        ]
        same(f"column {expected.column_names[i]!r}", *texts)


def same_values(name: str, column: pa.ChunkedArray, cells: Sequence[Cell], case: Case) -> None:
    """Compare a column that was text."""
    kind = case.kinds.get(name, pa.string())
    same(f"type of {name!r}", column.type, pa.string() if kind is None else kind)
    for found, cell in zip(column.to_pylist(), cells, strict=True):
        if kind is None:
            same(f"column {name!r}", value_of(found or "null"), value_of(cell.json or "null"))
        elif not (
            isinstance(found, float) and isinstance(cell.value, float) and math.isnan(found + cell.value)
        ):
            same(f"column {name!r}", found, cell.value)


CHECKS = {"csv": check_csv, "tsv": check_tsv, "jsonl": check_jsonl, "parquet": check_parquet}


def check_rejects(bad: Sequence[Row], path: Path) -> None:
    """Compare the file of bad rows."""
    found = rejects_of(path)
    same(
        "rejects", [(row["file"], int(row["row"])) for row in found], [(row.file, row.number) for row in bad]
    )
    for told, row in zip(found, bad, strict=True):
        if row.line is not None:
            same(f"line of row {row.number}", str(told["line"]), str(row.line))
        if row.fault.lower() not in told["reason"].lower():
            raise Wrong(f"predict: the reason of row {row.number} lacks {row.fault!r}: {told['reason']}")


def rejects_of(path: Path) -> list[dict[str, Any]]:
    """The file of bad rows."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    text = path.read_text("utf-8")
    if path.suffix == ".jsonl":
        return list(map(json.loads, text.splitlines()))
    form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    return list(csv.DictReader(io.StringIO(text, newline=""), **form))
