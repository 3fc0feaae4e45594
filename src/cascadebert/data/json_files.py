"""JSON lines, arrays of objects and `{"data": [...]}`: one object at a time, values as they are spelled."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice, starmap
from operator import itemgetter
from typing import Any, TypeAlias

from cascadebert.data.files import DataFile
from cascadebert.data.json_forms import DECODER, raw_rows, skip_space
from cascadebert.data.table import MISSING, Chunk, ColumnType, Fault, Json, Table
from cascadebert.data.text_files import open_text

_NESTED = {tuple, list, dict}  # types of objects and arrays as they are decoded here
_LARGEST_IN_DOUBLE = 2**53  # of the whole numbers that all fit


_scan: Any = json.JSONDecoder(object_pairs_hook=tuple, parse_float=Json, parse_constant=Json).scan_once  # type: ignore[attr-defined]


def parse_object(text: str) -> dict[str, Any]:
    """The object in a text: strings, booleans, None and whole numbers as Python values, others as `Json`.

    Raises ValueError with the fault if there is none, or it names a key twice.
    """
    try:
        pairs, end = _scan(text, 0 if text[:1] == "{" else skip_space(text, 0))
    except (ValueError, RecursionError, StopIteration):
        pairs, end = _slow_pairs(text), len(text)
    if end < len(text) and text[end:].strip():
        raise ValueError(_after_the_end(text, end))
    if type(pairs) is not tuple:
        raise ValueError("expected an object")
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("an object that names a key twice")
    if _NESTED.isdisjoint(map(type, record.values())):
        return record
    spelled = _spelled_values(text)
    return {key: Json(spelled[key]) if type(value) in _NESTED else value for key, value in record.items()}


def _after_the_end(text: str, end: int) -> str:
    if text[end:].strip() == ",":
        return "not JSON (a comma at the end of the line: JSON lines have none)"
    return f"not JSON (more after the end of the value at character {end + 1})"


def _slow_pairs(text: str) -> Any:
    """Keys and values of an object that may hold longer numbers than Python reads. Raises ValueError."""
    try:
        record = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(_not_json(error)) from error
    return tuple(record.items()) if isinstance(record, dict) else record


def _spelled_values(text: str) -> dict[str, str]:
    """The text of each value of a well-formed object."""
    found, position = {}, skip_space(text, text.index("{") + 1)
    while text[position] != "}":
        key, position = DECODER.raw_decode(text, position)
        start = skip_space(text, skip_space(text, position) + 1)  # after the colon
        _, position = DECODER.raw_decode(text, start)
        found[key] = text[start:position]
        position = skip_space(text, position)
        position = skip_space(text, position + 1) if text[position] == "," else position
    return found


def _not_json(error: Exception) -> str:
    place = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    return f"not JSON ({getattr(error, 'msg', error)}{place})"


_Row: TypeAlias = "tuple[int, dict[str, Any] | str]"  # its line, and its values or its fault


def _row(line: int, text: str) -> _Row:
    try:
        return line, parse_object(text)
    except ValueError as error:
        return line, str(error)


def read_json(
    file: DataFile, *, encoding: str | None, rows: int, texts: Collection[str] = ()
) -> Iterator[Chunk]:
    """Read a file of JSON lines, an array of objects or `{"data": [...]}` in chunks of `rows` rows.

    An object that is alone is a row if it has a text by one of the names in `texts`, or by a usual one.

    A key that an object lacks is MISSING. Raises DataError for JSON of another form, and where an array
    breaks off.
    """
    first = 1
    with open_text(file, encoding, "\n") as text:
        records = starmap(_row, raw_rows(text, file.name, texts))
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
