"""Carried cells in files: writing, and strict reading."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa

from cascadebert.data.table import Table
from cascadebert.data.writers import write_table

LOWEST, HIGHEST = -(2**63), 2**63 - 1  # of 64 bits


def strict(line: str) -> dict[str, object]:
    """A line of JSON; NaN and Infinity, repeated keys and lone surrogates are errors."""

    def unique(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def refuse(token):
        raise AssertionError(token)

    found = json.loads(line, parse_constant=refuse, object_pairs_hook=unique)
    json.dumps(found, ensure_ascii=False).encode("utf-8")
    return found


def write(folder: Path, suffix: str, columns: dict[str, object], types=None) -> Path:
    """A new file with these columns."""
    path = folder / f"cells{suffix}"
    write_table(Table(columns, "given"), path, types)
    return path


def records(path: Path) -> list[dict[str, object]]:
    """The lines of a jsonl file."""
    return [strict(line) for line in path.read_text("utf-8").removesuffix("\n").split("\n")]


def csv_rows(path: Path) -> list[list[str]]:
    """The rows of a csv file with the header."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.reader(file, strict=True))


def viewed(numbers: list[int | None], to: pa.DataType) -> pa.Array:
    """An Arrow array of these ticks, whatever Python's dates can express."""
    return pa.array(numbers, pa.int32() if to.bit_width == 32 else pa.int64()).view(to)
