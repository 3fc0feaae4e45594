"""Checks of what is read, texts and groups, from tables and from lists: each bad one with its fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cascadebert.data.columns import match_column
from cascadebert.data.labels import shorten, whole_number
from cascadebert.data.table import ESCAPED_BYTE, SURROGATE, Table
from cascadebert.errors import DataError
from cascadebert.types import Texts

_LISTS = ("to_pylist", "to_list", "tolist")  # methods of Arrow, of pandas and polars, of NumPy


def as_texts(values: Iterable[Any]) -> Texts:
    """The texts, or pairs of texts, in a list, an array, a column of any library or another iterable.

    Raises DataError with the place of the first one that is not a text, or of another kind than the first.

    >>> as_texts(("a", "b")), as_texts([["a", "b"]])
    (['a', 'b'], [('a', 'b')])
    >>> as_texts(["a", 3])
    Traceback (most recent call last):
    cascadebert.errors.DataError: texts[1]: expected a string, found int 3
    """
    items = _items(values)
    check: Callable[[Any], Any] = _pair if items and not isinstance(items[0], str) else _single
    texts = []
    for i, item in enumerate(items):
        try:
            texts.append(check(item))
        except ValueError as error:
            choice = "" if i or isinstance(item, (str, list, tuple)) else "a string or "
            raise DataError(f"texts[{i}]: expected {choice}{error}") from None
    return texts


def _items(values: Any) -> list[Any]:
    """The elements of what should be texts. Raises DataError for a single string, a table and the like."""
    if isinstance(values, (str, bytes)):
        raise DataError("expected a list of texts (or of pairs), got one string: put it in a list")
    names = list(values) if isinstance(values, Mapping) else getattr(values, "columns", None)
    names = getattr(values, "column_names", names)
    if names is not None:
        columns = shorten([repr(name) for name in names])
        raise DataError(
            f"expected texts, got a table ({type(values).__name__}): give a column of it: {columns}"
        )
    is_ordered = isinstance(values, Iterable) and not isinstance(values, (set, frozenset))
    items = as_list(values) if is_ordered else None
    if not isinstance(items, list):
        raise DataError(f"expected a list of texts (or of pairs), got {_found(values)}")
    return items


def as_list(values: Any) -> Any:
    """The elements of a list, an array or a column of any library, where it can as Python values."""
    method = next((getattr(values, name) for name in _LISTS if hasattr(values, name)), None)
    return list(values) if method is None else method()


def _single(item: Any) -> str:
    if not isinstance(item, str):
        raise ValueError(f"a string, found {_found(item)}")
    if not _is_utf8(item):
        raise ValueError(f"text, found half of a surrogate pair in {item!r:.40}")
    return item


def _pair(item: Any) -> tuple[str, str]:
    if (
        not isinstance(item, (list, tuple))
        or len(item) != 2
        or not all(isinstance(text, str) for text in item)
    ):
        raise ValueError(f"a pair of strings, found {_found(item)}")
    return _single(item[0]), _single(item[1])


def _found(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.40}"


def check_texts(table: Table, names: Sequence[str]) -> tuple[Texts, list[int], dict[int, str]]:
    """Check one text column, or two for pairs; a missing column counts as empty.

    Returns the good texts or pairs, their positions in the table, and the faults of the others by position.
    """
    columns, faults = [], dict[int, str]()
    for name in names:
        here = match_column(table.columns, name) or name  # files of a folder may differ in case
        cells, column_faults = _check_column(table, here, _text)
        columns.append(cells)
        faults = column_faults | faults  # the first column's fault is reported
    texts: list[Any] = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    good = [i for i in range(len(texts)) if i not in faults]
    return [texts[i] for i in good], good, faults


def checked(table: Table, column: str, check: Callable[[Any], str]) -> tuple[str, ...]:
    """The checked cells of a column. Raises DataError with the first bad row."""
    values, faults = _check_column(table, column, check)
    raise_first(table, faults)
    return tuple(values)


def _check_column(table: Table, name: str, check: Callable[[Any], str]) -> tuple[list[str], dict[int, str]]:
    """Checked cells, and the fault of each bad one by position, as "column 'NAME': ..."."""
    values, faults = [], dict[int, str]()
    for i, cell in enumerate(table.cells(name)):
        try:
            values.append(check(cell))
        except ValueError as error:
            values.append("")
            faults[i] = f"column '{name}': {error}"
    return values, faults


def raise_first(table: Table, faults: dict[int, str]) -> None:
    """Raise DataError with the first of the faults by position, if there are any."""
    if faults:
        i = min(faults)
        more = f" ({len(faults) - 1:,} more such rows)" if len(faults) > 1 else ""
        raise DataError(f"{table.describe(i, faults[i] + more)}. Fix or remove the row.")


def _text(cell: Any) -> str:
    if _is_null(cell) or (isinstance(cell, str) and not cell.strip()):
        raise ValueError("empty text")
    if not isinstance(cell, str):
        raise ValueError(f"expected text, found {_found(cell)}")
    return utf8(cell)


def utf8(text: str) -> str:
    """The text. Raises ValueError if UTF-8 cannot hold it."""
    if _is_utf8(text):
        return text
    if ESCAPED_BYTE.search(text):
        raise ValueError(
            "bytes that are not UTF-8: save the file as UTF-8, or name its encoding with --encoding"
        )
    raise ValueError("half of a surrogate pair, which is not text")


def _is_utf8(text: str) -> bool:
    return text.isascii() or not SURROGATE.search(text)


def _is_null(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def is_missing(cell: Any) -> bool:
    """True for an empty cell, None and NaN."""
    return cell.strip().lower() in ("", "nan") if isinstance(cell, str) else _is_null(cell)


def check_group(cell: Any) -> str:
    """The key of a group. Raises ValueError if there is none."""
    if is_missing(cell):
        raise ValueError("no group")
    return whole_number(str(cell))
