"""The forms of JSON files (lines, an array, an object that holds one) and the text of each row in them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Any, TextIO, TypeAlias

from cascadebert.data.columns import USUAL_TEXT_COLUMNS, match_column
from cascadebert.data.labels import shorten
from cascadebert.data.table import Json
from cascadebert.errors import DataError, printable

DECODER = json.JSONDecoder(parse_int=Json, parse_float=Json, parse_constant=Json)  # of any number of digits

_BLOCK = 1 << 16
_MOST = 1 << 24  # characters of the first line, and of each value before the rows, that are looked at
_LONGEST_TOKEN = 16  # of those that are not strings or numbers: -Infinity, or an escaped pair
_NESTED = ("[", "{")  # starts of values
_SPACE = re.compile(r"[ \t\n\r]*")
_ADVICE = "the rest cannot be read. Mend it, or write JSON lines."
_LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_TEXT_NAMES = frozenset(chain(*USUAL_TEXT_COLUMNS))

RawRow: TypeAlias = "tuple[int, str]"  # the line at which a row begins, and its text


def skip_space(text: str, position: int) -> int:
    """The position after white space."""
    match = _SPACE.match(text, position)
    return position if match is None else match.end()


def raw_rows(text: TextIO, name: str, texts: Collection[str] = ()) -> Iterator[RawRow]:
    """The rows of JSON lines, of an array, or of the array in `{"data": [...]}`.

    An object that is alone is a row if it has a text by one of the names in `texts`, or by a usual one.

    Raises DataError for JSON of another form, and where an array breaks off.
    """
    scanner = _Scanner(text)
    start = scanner.peek()
    if start == "[" or (start == "{" and _find_rows(scanner, name, _TEXT_NAMES.union(texts))):
        yield from _items(scanner, name, in_object=start == "{")
    else:
        for number, line in enumerate(scanner.lines(), start=1):
            if line.strip():
                yield number, line


class _BrokenJson(Exception):
    """A text that is not JSON."""


class _TooLong(_BrokenJson):
    """A value that is longer than what is looked at."""


class _Scanner:
    """Goes over a text that is read in blocks, which are kept until `forget`."""

    def __init__(self, text: TextIO) -> None:
        self._text, self._buffer, self._position = text, "", 0
        self._keeps = True
        self.line = 1

    def forget(self) -> None:
        """Keep no more than what is being read."""
        self._keeps = False

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            self._advance(skip_space(self._buffer, self._position))
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._read(_BLOCK):
                return ""

    def take(self, character: str) -> bool:
        """Go over the next character. False if it is another one."""
        if self.peek() != character:
            return False
        self._advance(self._position + 1)
        return True

    def require(self, character: str) -> None:
        """Go over the next character. Raises _BrokenJson if it is another one."""
        if not self.take(character):
            raise _BrokenJson(f"expected {character}")

    def value(self, most: int | None = None) -> RawRow:
        """Go over the next value. Raises _BrokenJson if there is none or, with `most`, it is longer."""
        size = _BLOCK
        while True:
            end, fault = self._end_of_value()
            if end < len(self._buffer) and not fault:
                break
            if most is not None and len(self._buffer) - self._position > most:
                raise _TooLong(f"more than {most:,} characters")
            if not self._read(size):  # of a number at the end of a block, more digits may follow
                break
            size *= 2
        if fault:
            raise _BrokenJson(fault.msg + (", and the file ends" if _is_cut_off(fault) else ""))
        line, value = self.line, self._buffer[self._position : end]
        self._advance(end)
        return line, value

    def _end_of_value(self) -> tuple[int, json.JSONDecodeError | None]:
        """The end of the next value, and a fault that may be due to the end of what is read."""
        self.peek()
        try:
            return DECODER.raw_decode(self._buffer, self._position)[1], None
        except json.JSONDecodeError as error:
            is_cut = error.pos >= len(self._buffer) - _LONGEST_TOKEN or "Unterminated" in error.msg
            if not is_cut:
                raise _BrokenJson(error.msg) from error
            return len(self._buffer), error
        except RecursionError as error:
            raise _BrokenJson("nested too deeply") from error

    def key(self) -> str:
        """Go over the next key and its colon. Raises _BrokenJson if there is none."""
        if self.peek() != '"':
            raise _BrokenJson("expected a key")
        name: str = json.loads(self.value(_MOST)[1])
        self.require(":")
        return name

    def at_rows(self) -> bool:
        """True if an array begins here whose first item is an object, or that is empty."""
        place = self._position, self.line
        found = self.take("[") and self.peek() in ("{", "]")
        self._position, self.line = place
        return found

    def first_line(self) -> str:
        """The line that begins here, or as much of it as is looked at."""
        size = _BLOCK
        while "\n" not in self._buffer[self._position :] and len(self._buffer) < _MOST and self._read(size):
            size *= 2
        return self._buffer[self._position :].partition("\n")[0]

    def is_followed(self, line: str) -> bool:
        """True if there is more than white space after this line, which begins here."""
        end = self._position + len(line)
        while skip_space(self._buffer, end) == len(self._buffer):
            if not self._read(_BLOCK):
                return False
        return True

    def lines(self) -> Iterator[str]:
        """The lines of the text, from its start."""
        *whole, rest = self._buffer.split("\n")
        self._buffer = ""
        yield from whole
        for line in self._text:
            yield rest + line
            rest = ""
        if rest:
            yield rest

    def _read(self, size: int) -> bool:
        more = self._text.read(size)
        if more and not self._keeps:
            self._buffer, self._position = self._buffer[self._position :], 0
        self._buffer += more
        return bool(more)

    def _advance(self, position: int) -> None:
        self.line += self._buffer.count("\n", self._position, position)
        self._position = position


def _is_cut_off(fault: json.JSONDecodeError) -> bool:
    """True if a text with this fault ends in the midst of a value."""
    rest = fault.doc[fault.pos :].rstrip()
    is_in_literal = fault.msg == "Expecting value" and any(name.startswith(rest) for name in _LITERALS)
    return not rest or is_in_literal or "Unterminated" in fault.msg


def _find_rows(scanner: _Scanner, name: str, texts: Collection[str]) -> bool:
    """Go to the array of rows in one object. False for lines, of which each is an object.

    Raises DataError for one object of another form.
    """
    line = scanner.first_line()
    record = _object(line)
    if record is not None and (_is_row(record, texts) or scanner.is_followed(line)):
        return False
    starts: dict[str, str] = {}  # the first character of each value
    first = scanner.line
    try:
        has_rows = _go_to_rows(scanner, starts)
    except _BrokenJson as error:
        is_cut = isinstance(error, _TooLong) and next(reversed(starts.values()), "") in _NESTED
        if not is_cut and line.strip() != "{":  # a broken line
            return False
        has_rows = False
    if has_rows and not any(_is_text(key, texts) and start not in _NESTED for key, start in starts.items()):
        return True
    lines = " over several lines" if scanner.line > first else ""
    raise _unknown_form(name, f"one object{lines} with the keys {shorten(list(starts)) or '(none)'}")


def _object(line: str) -> dict[str, Any] | None:
    try:
        record = DECODER.decode(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _is_row(record: Mapping[str, Any], texts: Collection[str]) -> bool:
    """True if an object that is alone in a file is a row, and holds no rows itself."""
    plain = {key: value for key, value in record.items() if not isinstance(value, (list, dict))}
    if not record or any(_is_text(key, texts) for key in plain):
        return True
    lists = {key for key, value in record.items() if isinstance(value, list) and _are_rows(value)}
    has_text = any(isinstance(value, str) and " " in value for value in plain.values())
    return bool(plain) and "data" not in lists and (has_text or not any(map(record.get, lists)))


def _are_rows(items: list[Any]) -> bool:
    return not items or isinstance(items[0], dict)


def _is_text(key: str, texts: Collection[str]) -> bool:
    return any(match_column([key], name) for name in texts)


def _go_to_rows(scanner: _Scanner, starts: dict[str, str]) -> bool:
    """Go to the array of rows in `data`, noting the start of each value before. False if there is none."""
    scanner.require("{")
    while scanner.peek() != "}":
        key = scanner.key()
        if key == "data" and scanner.at_rows():
            return True
        starts[key] = scanner.peek()
        scanner.value(_MOST)
        if not scanner.take(","):
            break
    scanner.require("}")
    if scanner.is_followed(""):
        raise _BrokenJson("more after the end of the object")
    return False


def _unknown_form(name: str, found: str) -> DataError:
    return DataError(
        f'{name}: expected one object per line, an array of objects or {{"data": [...]}}; found {found}. '
        "With pandas, write it with to_json(orient='records', lines=True)."
    )


def _items(scanner: _Scanner, name: str, *, in_object: bool) -> Iterator[RawRow]:
    """The items of the array that begins here. Raises DataError where it breaks off."""
    scanner.forget()
    scanner.require("[")
    if scanner.peek() in ("[", '"'):
        raise _unknown_form(name, f"an array of {'arrays' if scanner.peek() == '[' else 'strings'}")
    row, is_whole = 1, False
    try:
        while not scanner.take("]"):
            yield scanner.value()
            row += 1
            scanner.take(",")
        is_whole = True
        _check_end(scanner, in_object=in_object)
    except _BrokenJson as error:
        place = f"line {scanner.line:,}"
        fault = f"the array breaks off at {place}, row {row:,}"
        fault = f"more follows the array in {place}" if is_whole else fault
        raise DataError(f"{name}: {fault} ({error}); {_ADVICE}") from error


def _check_end(scanner: _Scanner, *, in_object: bool) -> None:
    """Raise _BrokenJson if anything follows an array but the rest of the object that it is in."""
    if in_object:
        keys = {"data"}
        while scanner.take(","):
            key = scanner.key()
            if key in keys:
                raise _BrokenJson(f"the key '{printable(key, 40)}' twice")
            keys.add(key)
            scanner.value()
        scanner.require("}")
    if scanner.peek():
        raise _BrokenJson("text after the end")
