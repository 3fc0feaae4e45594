"""JSON lines, arrays of objects and `{"data": [...]}`: one object at a time, values as they are spelled."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import Any, TextIO, TypeAlias

from cascadebert.data.files import DataFile
from cascadebert.data.table import MISSING, Chunk, ColumnType, Fault, Json, Table
from cascadebert.data.text_files import open_text
from cascadebert.errors import DataError

_ARRAY = re.compile(r'\s*(?:\{\s*"data"\s*:\s*)?\[')  # of a whole file, not of lines
_BLOCK = 1 << 16
_NESTED = {tuple, list, dict}  # types of objects and arrays as they are decoded here
_LARGEST_IN_DOUBLE = 2**53  # of the whole numbers that all fit
_SPACE = re.compile(r"[ \t\n\r]*")


_scan: Any = json.JSONDecoder(object_pairs_hook=tuple, parse_float=Json, parse_constant=Json).scan_once  # type: ignore[attr-defined]
_decoder_of_digits = json.JSONDecoder(parse_int=Json, parse_float=Json, parse_constant=Json)  # any number of


def parse_object(text: str) -> dict[str, Any]:
    """The object in a text: strings, booleans, None and whole numbers as Python values, others as `Json`.

    Raises ValueError with the fault if there is none, or it names a key twice.
    """
    try:
        pairs, end = _scan(text, 0 if text[:1] == "{" else _skip(text, 0))
    except (ValueError, RecursionError, StopIteration):
        pairs, end = _slow_pairs(text), len(text)
    if end < len(text) and text[end:].strip():
        raise ValueError(f"not JSON (more after the end of the value at character {end + 1})")
    if type(pairs) is not tuple:
        raise ValueError("expected an object")
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("an object that names a key twice")
    if _NESTED.isdisjoint(map(type, record.values())):
        return record
    spelled = _spelled_values(text)
    return {key: Json(spelled[key]) if type(value) in _NESTED else value for key, value in record.items()}


def _slow_pairs(text: str) -> Any:
    """Keys and values of an object that may hold longer numbers than Python reads. Raises ValueError."""
    try:
        record = _decoder_of_digits.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(_not_json(error)) from error
    return tuple(record.items()) if isinstance(record, dict) else record


def _spelled_values(text: str) -> dict[str, str]:
    """The text of each value of a well-formed object."""
    found, position = {}, _skip(text, text.index("{") + 1)
    while text[position] != "}":
        key, position = _decoder_of_digits.raw_decode(text, position)
        start = _skip(text, _skip(text, position) + 1)  # after the colon
        _, position = _decoder_of_digits.raw_decode(text, start)
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


_Row: TypeAlias = "tuple[int, dict[str, Any] | str]"  # its line, and its values or its fault


def _row(line: int, text: str) -> _Row:
    try:
        return line, parse_object(text)
    except ValueError as error:
        return line, str(error)


def read_json(file: DataFile, *, encoding: str | None, rows: int) -> Iterator[Chunk]:
    """Read a file of JSON lines, an array of objects or `{"data": [...]}` in chunks of `rows` rows.

    A key that an object lacks is MISSING. Raises DataError for JSON of another form.
    """
    first = 1
    with open_text(file, encoding, "\n") as text:
        records = _records(text, file.name)
        while batch := list(islice(records, rows)):
            numbered = list(enumerate(batch, first))
            first += len(batch)
            bad = [Fault(number, line, row) for number, (line, row) in numbered if isinstance(row, str)]
            good = numbered if not bad else [one for one in numbered if not isinstance(one[1][1], str)]
            table = Table(_columns([row for _, (_, row) in good]), file.name)
            yield Chunk(table, [number for number, _ in good], bad, [line for _, (line, _) in good])


def _columns(rows: Sequence[Any]) -> dict[str, list[Any]]:
    names = dict.fromkeys(chain.from_iterable(rows))
    if sum(map(len, rows)) == len(rows) * len(names):  # as a rule, no object lacks a key
        return {name: list(map(itemgetter(name), rows)) for name in names}
    return {name: [row.get(name, MISSING) for row in rows] for name in names}


def _records(text: TextIO, name: str) -> Iterator[_Row]:
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
            yield _row(number, line)


def _is_pretty(first: str, start: str) -> bool:
    """True if the first line is the beginning of a well-formed object, or of one that is not a row."""
    try:
        record = _decoder_of_digits.decode(first)
    except (ValueError, RecursionError):
        try:
            return "\n" in start and isinstance(_decoder_of_digits.decode(start), dict)
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


def _array_items(start: str, position: int, text: TextIO, *, in_object: bool) -> Iterator[_Row]:
    """The objects of an array, which may be the value of a key; a fault ends it."""
    array = _Array(start, position, text)
    try:
        while (item := array.next_item()) is not None:
            yield _row(*item)
        if not _is_end(array.rest(), in_object=in_object):
            yield (array.line, "not JSON (more after the end of the array)")
    except (ValueError, RecursionError) as error:
        yield (array.line, _not_json(error))


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
                _, end = _decoder_of_digits.raw_decode(self._buffer, start)
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
        parse_object('{"data": []' + rest)
    except ValueError:
        return False
    return True


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
    if "integer" in plain:
        whole = [cell for cell in cells if type(cell) is int]
        least, most = min(whole), max(whole)
        is_long = max(-least, most) > _LARGEST_IN_DOUBLE
        plain |= {"long"} if is_long else set()
        plain |= {"json"} if least < -(2**63) or most >= 2**63 else set()
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
    if kinds == {"integer", "long"}:
        return "long"
    if kinds == {"integer", "number"}:
        return "number"
    return "null" if not kinds else kinds.pop() if len(kinds) == 1 else "json"
