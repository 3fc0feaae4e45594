"""Rows in memory, as they were read: the columns that are needed and those that are only carried along."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from cascadebert.types import Ints

if TYPE_CHECKING:
    import pyarrow

SURROGATE = re.compile("[\ud800-\udfff]")  # a byte that is not UTF-8, or half of a pair
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # a byte that is not UTF-8, as it is decoded here
MISSING = type("Missing", (), {"__slots__": (), "__repr__": lambda _: "MISSING"})()  # a key that a line lacks


# "long": integers of which a double would not keep every digit; "json": mixed or nested values
Kind: TypeAlias = Literal["null", "string", "boolean", "integer", "long", "number", "json"]
ColumnType: TypeAlias = "Kind | pyarrow.DataType"  # of a column of text formats, or of an Arrow one


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
class Places:
    """Files, rows and lines that n rows come from."""

    sources: tuple[str, ...]  # names of files
    source: Ints  # (n,) index of the file
    row: Ints  # (n,) number in it, counted from 1 without the header
    line: Ints  # (n,) of a text file; 0 in other files

    @classmethod
    def join(cls, parts: Sequence[tuple[str, Sequence[int], Sequence[int] | None]]) -> Places:
        """The places of consecutive parts: a file's name, and its rows and lines."""
        sources = list(dict.fromkeys(name for name, _, _ in parts))
        source = [sources.index(name) for name, rows, _ in parts for _ in rows]
        row = [number for _, rows, _ in parts for number in rows]
        line = [number for _, rows, lines in parts for number in lines or [0] * len(rows)]
        return cls(tuple(sources), *(np.array(values, dtype=np.int64) for values in (source, row, line)))

    def take(self, indices: Ints) -> Places:
        """The places of the rows at these indices, in that order."""
        return replace(self, source=self.source[indices], row=self.row[indices], line=self.line[indices])

    def describe(self, index: int, fault: str) -> str:
        """A row's fault with its place, such as "a.csv, row 2: not JSON (line 3 of the file)"."""
        line = int(self.line[index])
        return describe_fault(self.sources[self.source[index]], int(self.row[index]), line or None, fault)


def describe_fault(source: str, row: int, line: int | None, fault: str) -> str:
    """A row's fault with its place, which stands before the advice that a fault may end with."""
    separator = "," if fault.startswith("column ") else ":"
    place = "" if line is None else f" (line {line:,} of the file)"
    what, _, advice = fault.removesuffix(".").rpartition(". ") if fault.endswith(".") else (fault, "", "")
    told = f"{what}{place}. {advice}" if what and advice else f"{advice or what}{place}"
    return f"{source}, row {row}{separator} {told}"


@dataclass(frozen=True)
class Table:
    """Columns of equal length; `source` names the table in errors."""

    columns: Mapping[str, Any]  # in file order: a list of cells, or an Arrow array of parquet and the like
    source: str
    repeated: frozenset[str] = frozenset()  # names that the header has twice
    declared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names of labels given as ids
    places: Places | None = field(default=None, compare=False)  # of the rows, if they are not 1 to n

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def describe(self, index: int, fault: str) -> str:
        """A row's fault with its place."""
        if self.places is not None:
            return self.places.describe(index, fault)
        return describe_fault(self.source, index + 1, None, fault)

    def cells(self, name: str) -> list[Any]:
        """Python values of a column; all None if there is none of this name."""
        column = self.columns.get(name)
        if column is None:
            return [None] * len(self)
        if not isinstance(column, list):
            return _python_values(column)
        plain = [cell.value() if isinstance(cell, Json) else cell for cell in column]
        return [None if cell is MISSING else cell for cell in plain]


def _python_values(column: Any) -> list[Any]:
    """Python values of an Arrow array; bytes of a text that are not UTF-8 become lone surrogates."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        raw = column.cast("large_binary").to_pylist()
        return [None if cell is None else cell.decode("utf-8", "surrogateescape") for cell in raw]
    except (ValueError, OverflowError, KeyError):  # times that Python has none for, and are no texts anyway
        return [column.type if cell.is_valid else None for cell in column]


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file; row numbers count from 1 without the header."""

    table: Table  # the well-formed rows
    numbers: list[int]  # their row numbers
    bad: list[Fault]  # the other rows
    lines: list[int] | None = None  # of a text file, at which the well-formed rows begin

    def __len__(self) -> int:
        return len(self.numbers) + len(self.bad)


def unique_names(names: Iterable[str]) -> list[str]:
    """The names, each that is there already with a number at its end.

    >>> unique_names(["a", "a", "a.1", "b"])
    ['a', 'a.2', 'a.1', 'b']
    """
    names = list(names)
    given, found = set(names), dict[str, None]()
    for name in names:
        new, number = name, 1
        while new in found or (new != name and new in given):
            new, number = f"{name}.{number}", number + 1
        found[new] = None
    return list(found)


def repeated_names(names: Iterable[str]) -> frozenset[str]:
    """The names that are there more than once."""
    return frozenset(name for name, count in Counter(names).items() if count > 1)
