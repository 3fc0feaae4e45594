"""Checks of the cells that are read: texts and groups, each bad one with its fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from cascadebert.data.labels import whole_number
from cascadebert.data.table import SURROGATE, Table
from cascadebert.errors import DataError
from cascadebert.types import Texts

MAX_CHARACTERS = 131_072  # Python's csv reader stops here by default, and no encoder reads as far


def check_texts(table: Table, names: Sequence[str]) -> tuple[Texts, list[int], dict[int, str]]:
    """Check one text column, or two for pairs; a missing column counts as empty.

    Returns the good texts or pairs, their positions in the table, and the faults of the others by position.
    """
    columns, faults = [], dict[int, str]()
    for name in names:
        cells, column_faults = _check_column(table, name, _text)
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
        raise DataError(f"{table.source}, row {i + 1}, {faults[i]}{more}. Fix or remove the row.")


def _text(cell: Any) -> str:
    if _is_null(cell) or (isinstance(cell, str) and not cell.strip()):
        raise ValueError("empty text")
    if not isinstance(cell, str):
        raise ValueError(f"expected text, found {type(cell).__name__} {cell!r:.40}")
    if len(cell) > MAX_CHARACTERS:
        raise ValueError(f"a text of {len(cell):,} characters; at most {MAX_CHARACTERS:,} are allowed")
    return utf8(cell)


def utf8(text: str) -> str:
    """The text. Raises ValueError if UTF-8 cannot hold it."""
    if SURROGATE.search(text):
        raise ValueError("bytes that are not UTF-8")
    return text


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
