"""JSON lines, arrays of objects and `{"data": [...]}`: one object at a time, values as they are spelled."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, TextIO

from cascadebert.data.files import DataFile
from cascadebert.data.table import MISSING, Chunk, ColumnType, Fault, Json, Table
from cascadebert.data.text_files import open_text
from cascadebert.errors import DataError

_ARRAY = re.compile(r'\s*(?:\{\s*"data"\s*:\s*)?\[')  # of a whole file, not of lines
_BLOCK = 1 << 16
_MAX_DIGITS = 18  # of a whole number that fits in 64 bits whatever it is
_LARGEST_IN_DOUBLE = 2**53  # of the whole numbers that all fit
_SPACE = re.compile(r"[ \t\n\r]*")


class _Repeated(dict[str, Any]):
    """An object that names a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Repeated(found)


def _whole(digits: str) -> int | Json:
    return int(digits) if len(digits) <= _MAX_DIGITS else Json(digits)


_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_whole, parse_float=Json, parse_constant=Json
)


def parse_object(text: str) -> dict[str, Any]:
    """The object in a text: strings, booleans, None and whole numbers as Python values, others as `Json`.

    Raises ValueError with the fault if there is none, or it names a key twice.
    """
    try:
        record = _decoder.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(_not_json(error)) from error
    if not isinstance(record, dict):
        raise ValueError("expected an object")
    if isinstance(record, _Repeated):
        raise ValueError("an object that names a key twice")
    if any(isinstance(value, (dict, list)) for value in record.values()):
        spelled = _spelled_values(text)
        return {k: Json(spelled[k]) if isinstance(v, (dict, list)) else v for k, v in record.items()}
    return record


def _spelled_values(text: str) -> dict[str, str]:
    """The text of each value of a well-formed object."""
    found, position = {}, _skip(text, text.index("{") + 1)
    while text[position] != "}":
        key, position = _decoder.raw_decode(text, position)
        start = _skip(text, _skip(text, position) + 1)  # after the colon
        _, position = _decoder.raw_decode(text, start)
        found[key] = text[start:position]
        position = _skip(text, position)
        position = _skip(text, position + 1) if text[position] == "," else position
    return found


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return position if match is None else match.end()


def _not_json(error: Exception) -> str:
    place = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    return f"not JSON ({getattr(error, 'msg', error)}{place})"


class _JsonRow(NamedTuple):
    line: int
    values: dict[str, Any]
    fault: str = ""


def _record(line: int, text: str) -> _JsonRow:
    try:
        return _JsonRow(line, parse_object(text))
    except ValueError as error:
        return _JsonRow(line, {}, str(error))


def read_json(file: DataFile, *, encoding: str | None, rows: int) -> Iterator[Chunk]:
    """Read a file of JSON lines, an array of objects or `{"data": [...]}` in chunks of `rows` rows.

    A key that an object lacks is MISSING. Raises DataError for JSON of another form.
    """
    number = 0
    with open_text(file, encoding, "\n") as text:
        records = _records(text, file.name)
        while batch := list(islice(records, rows)):
            numbered = list(enumerate(batch, number + 1))
            number += len(batch)
            good = [(i, record) for i, record in numbered if not record.fault]
            bad = [Fault(i, record.line, record.fault) for i, record in numbered if record.fault]
            names = dict.fromkeys(name for _, record in good for name in record.values)
            columns = {name: [record.values.get(name, MISSING) for _, record in good] for name in names}
            lines = [record.line for _, record in good]
            yield Chunk(Table(columns, file.name), [i for i, _ in good], bad, lines)


def _records(text: TextIO, name: str) -> Iterator[_JsonRow]:
    start = text.read(_BLOCK)
    match = _ARRAY.match(start)
    if match:
        yield from _array_items(start, match.end(), text, in_object="{" in match[0])
        return
    first = start.lstrip().split("\n", 1)[0]  # other line breaks may be part of a string
    if first.startswith("{") and _is_pretty(first, start):
        raise DataError(
            f'{name}: expected one object per line, an array of objects or {{"data": [...]}}; found an '
            "object over several lines. With pandas, write it with to_json(orient='records', lines=True)."
        )
    for number, line in enumerate(_lines(start, text), start=1):
        if line.strip():
            yield _record(number, line)


def _is_pretty(first: str, start: str) -> bool:
    """True if the first line is the beginning of a well-formed object, or of one that is not a row."""
    try:
        record = _decoder.decode(first)
    except (ValueError, RecursionError):
        try:
            return "\n" in start and isinstance(_decoder.decode(start), dict)
        except (ValueError, RecursionError):
            return first.strip() == "{"
    return start.strip() == first.strip() and isinstance(record, dict) and _is_of_columns(record)


def _is_of_columns(record: dict[str, Any]) -> bool:
    return bool(record) and all(isinstance(value, dict) for value in record.values())


def _lines(start: str, text: TextIO) -> Iterator[str]:
    """The lines of a text of which a start has been read."""
    *whole, rest = start.split("\n")
    yield from whole
    for line in text:
        yield rest + line
        rest = ""
    if rest:
        yield rest


def _array_items(start: str, position: int, text: TextIO, *, in_object: bool) -> Iterator[_JsonRow]:
    """The objects of an array, which may be the value of a key; a fault ends it."""
    array = _Array(start, position, text)
    try:
        while (item := array.next_item()) is not None:
            yield _record(*item)
        if not _is_end(array.rest(), in_object=in_object):
            yield _JsonRow(array.line, {}, "not JSON (more after the end of the array)")
    except (ValueError, RecursionError) as error:
        yield _JsonRow(array.line, {}, _not_json(error))


class _Array:
    """The items of an array in a text that is read in blocks."""

    def __init__(self, start: str, position: int, text: TextIO) -> None:
        self._buffer, self._position, self._text = start, position, text
        self.line = 1 + start.count("\n", 0, position)

    def next_item(self) -> tuple[int, str] | None:
        """Line and text of the next item; None at the end of the array. Raises ValueError for a fault."""
        size = _BLOCK
        while True:
            start = _skip(self._buffer, self._position)
            start = _skip(self._buffer, start + 1) if self._buffer[start : start + 1] == "," else start
            if self._buffer[start : start + 1] == "]":
                self._advance(start + 1)
                return None
            try:
                _, end = _decoder.raw_decode(self._buffer, start)
                break
            except ValueError:
                more = self._text.read(size)
                if not more:
                    self._advance(start)
                    raise
                self._buffer, self._position, size = self._buffer[self._position :] + more, 0, 2 * size
        self._advance(start)
        line, item = self.line, self._buffer[start:end]
        self._advance(end)
        return line, item

    def rest(self) -> str:
        """All that follows."""
        return self._buffer[self._position :] + self._text.read()

    def _advance(self, position: int) -> None:
        self.line += self._buffer.count("\n", self._position, position)
        self._position = position


def _is_end(rest: str, *, in_object: bool) -> bool:
    """True if what follows an array is nothing, or the rest of the object that it is in."""
    if not in_object:
        return not rest.strip()
    try:
        return type(_decoder.decode('{"data": []' + rest)) is dict  # without a key twice
    except (ValueError, RecursionError):
        return False


def column_kinds(chunks: Iterator[Chunk]) -> tuple[dict[str, ColumnType], int]:
    """The kind of each column over all chunks, and the number of rows."""
    kinds: dict[str, set[str]] = {}
    rows = 0
    for chunk in chunks:
        rows += len(chunk)
        for name, cells in chunk.table.columns.items():
            kinds.setdefault(name, set()).update(_kinds(cells))
    return {name: _common(found - {"null"}) for name, found in kinds.items()}, rows


def _kinds(cells: list[Any]) -> set[str]:
    plain = {_PLAIN[kind] for kind in set(map(type, cells)) - {Json}}
    if "integer" in plain and any(type(cell) is int and abs(cell) > _LARGEST_IN_DOUBLE for cell in cells):
        plain.add("long")  # among doubles, its digits would be lost
    return plain | {_json_kind(cell) for cell in cells if type(cell) is Json}


_PLAIN = {str: "string", bool: "boolean", int: "integer", type(None): "null", type(MISSING): "null"}


def _json_kind(cell: Json) -> str:
    if cell[0] in "[{":
        return "json"
    value = cell.value()
    if isinstance(value, float) and (not math.isinf(value) or cell.endswith("Infinity")):  # no 1e999
        return "number"
    return "long" if isinstance(value, int) and -(2**63) <= value < 2**63 else "json"


def _common(kinds: set[str]) -> ColumnType:
    if kinds and kinds <= {"integer", "long"}:
        return "integer"
    if kinds == {"integer", "number"}:
        return "number"
    return "string" if not kinds else kinds.pop() if len(kinds) == 1 else "json"
