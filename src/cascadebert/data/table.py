"""Rows in memory, as they were read: the columns that are needed and those that are only carried along."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

SURROGATE = re.compile("[\ud800-\udfff]")  # a byte that is not UTF-8, or half of a pair
MISSING = type("Missing", (), {"__slots__": (), "__repr__": lambda _: "MISSING"})()  # a key that a line lacks

# Of a column over all files: its kind in text formats ("json": several kinds, or nested), or its Arrow type.
ColumnType: TypeAlias = 'Literal["string", "boolean", "integer", "number", "json"] | Any'


class Json(str):
    """A JSON value as its file spells it, so that no digit of a number is lost on the way through."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Json({super().__repr__()})"

    def value(self) -> Any:
        """The Python value; a number of more digits than Python reads stays text."""
        try:
            return json.loads(self)
        except (ValueError, RecursionError):
            return str(self)


class Fault(NamedTuple):
    """A row that cannot be read; `row` counts from 1 without the header, `line` is that of a text file."""

    row: int
    line: int | None
    reason: str


@dataclass(frozen=True)
class Table:
    """Columns of equal length; `source` names the table in errors."""

    columns: Mapping[str, Any]  # in file order: a list of cells, or an Arrow array of parquet and the like
    source: str
    repeated: frozenset[str] = frozenset()  # names that the header has twice
    declared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names of labels given as ids

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def cells(self, name: str) -> list[Any]:
        """Python values of a column; all None if there is none of this name."""
        column = self.columns.get(name)
        if column is None:
            return [None] * len(self)
        if not isinstance(column, list):
            return list(column.to_pylist())
        plain = [cell.value() if isinstance(cell, Json) else cell for cell in column]
        return [None if cell is MISSING else cell for cell in plain]


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file; row numbers count from 1 without the header."""

    table: Table  # the well-formed rows
    numbers: list[int]  # their row numbers
    bad: list[Fault]  # the other rows
    lines: list[int] | None = None  # of a text file, at which the well-formed rows begin

    def __len__(self) -> int:
        return len(self.numbers) + len(self.bad)


def unique_names(names: Iterable[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of columns of which a repeated one gets a number, and the names that were repeated.

    >>> unique_names(["a", "b", "a"])
    (('a', 'b', 'a.1'), frozenset({'a'}))
    """
    names = list(names)
    found: list[str] = []
    repeated = set()
    for name in names:
        unique, number = name, 0
        while unique in found or (number and unique in names):
            number += 1
            unique = f"{name}.{number}"
        if number:
            repeated.add(name)
        found.append(unique)
    return tuple(found), frozenset(repeated)
