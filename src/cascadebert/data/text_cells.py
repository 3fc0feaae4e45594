"""Text forms of cells: strict JSON for jsonl, and what csv and tsv hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from cascadebert.data.table import MISSING, SURROGATE, Json

NOT_UTF8 = r"bytes that are not UTF-8 and halves of surrogate pairs are written as \xe9 or \ud800"
BREAKS = r"tabs and line breaks, which tsv cannot hold, are written as \t, \n, \r"

_HALF_PAIR = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # the surrogates that stand for no byte
_BARE = {"NaN": "null", "Infinity": '"Infinity"', "-Infinity": '"-Infinity"'}  # not JSON, and their form
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?Infinity|NaN|[\r\n]', re.DOTALL)
_SUSPECT = re.compile("[\ud800-\udfff\r\n]|NaN|Infinity|\\\\u[dD][89a-fA-F]")
_encode = json.JSONEncoder(ensure_ascii=False).encode


def json_text(cell: Any, notes: Counter[str]) -> str:
    r"""A cell as strict JSON in one line; counts in `notes` what had to be escaped.

    >>> json_text("caf\udce9", Counter())
    '"caf\\\\xe9"'
    >>> json_text(Json('[1e999, NaN, "NaN"]'), Counter())
    '[1e999, null, "NaN"]'
    """
    kind = type(cell)
    if kind is str:
        return _encode(cell if cell.isascii() else escape(cell, notes))
    return str(cell) if kind is int else _strict(_raw(cell), notes)


def plain_text(cell: Any, notes: Counter[str]) -> str:
    """A cell in csv and tsv, before quoting: strings as they are, nothing for null, the rest as JSON."""
    if type(cell) is str:
        return cell
    if cell is None or cell is MISSING:
        return ""
    if type(cell) is int:
        return str(cell)
    raw = _raw(cell)
    return raw if raw in _BARE else _strict(raw, notes)


def escape(text: str, notes: Counter[str], *, keep_bytes: bool = False) -> str:
    r"""Text with each lone surrogate spelled out, such as `\xe9` for a byte that is not UTF-8.

    With `keep_bytes`, those that stand for a byte are kept.
    """
    if text.isascii():
        return text
    text, count = (_HALF_PAIR if keep_bytes else SURROGATE).subn(_escape, text)
    notes.update({NOT_UTF8: 1} if count else ())
    return text


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _raw(cell: Any) -> str:
    return cell if isinstance(cell, Json) else _encode(cell)


def _strict(raw: str, notes: Counter[str]) -> str:
    """JSON in one line without bare NaN and Infinity and without lone surrogates, else as it is spelled."""
    if not _SUSPECT.search(raw):
        return raw
    escaped = Counter[str]()

    def mend(match: re.Match[str]) -> str:
        token = match[0]
        if token[0] != '"':
            return _BARE.get(token, " ")
        text = json.loads(token, strict=False)
        return _encode(escape(text, escaped)) if SURROGATE.search(text) else token

    text = _TOKEN.sub(mend, raw)
    notes.update(escaped.keys())
    return text
