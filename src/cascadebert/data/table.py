"""Rows in memory, as they were read: the columns that are needed and those that are only carried along."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SURROGATE = re.compile("[\ud800-\udfff]")  # a byte that is not UTF-8, or half of a pair


class Json(str):
    """A JSON value as its file spells it, so that no digit of a number is lost on the way through."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """Columns of equal length; `source` names the table in errors."""

    columns: Mapping[str, Any]  # in file order: a list of cells, or an Arrow array of parquet and the like
    source: str
    types: Mapping[str, Any] = field(default_factory=dict, compare=False)  # Arrow types, from parquet
    repeated: frozenset[str] = frozenset()  # names that the header has twice

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def cells(self, name: str) -> list[Any]:
        """Python values of a column; all None if there is none of this name."""
        column = self.columns.get(name)
        if column is None:
            return [None] * len(self)
        if not isinstance(column, list):
            return list(column.to_pylist())
        return [json.loads(cell) if isinstance(cell, Json) else cell for cell in column]


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file; row numbers count from 1 without the header."""

    table: Table  # the well-formed rows
    numbers: list[int]  # their row numbers
    bad: list[tuple[int, str]]  # row number and fault of the other rows
