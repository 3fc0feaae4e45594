"""Cells of Arrow arrays of any type as Python values that JSON knows."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cascadebert.data.table import unique_names
from cascadebert.errors import extra

if TYPE_CHECKING:
    import pyarrow

_TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}  # per second
_DAY = 86_400  # seconds


def python_cells(column: pyarrow.Array | pyarrow.ChunkedArray) -> list[Any]:
    """Values of an Arrow array of any type: None, bool, int, float, str, and lists and dicts of these.

    Decimals, dates, times, durations, UUIDs and bytes (base64) become strings, maps lists of pairs. A byte
    that is not UTF-8 becomes a lone surrogate.
    """
    return [cell for chunk in arrow_chunks(column) for cell in _cells(chunk)]


def take_rows(column: Any, rows: Sequence[int]) -> Any:
    """Rows of an Arrow column in ascending order; pyarrow's own `take` does not know every type."""
    with extra("tune"):
        import pyarrow
    bounds = [i for i in range(len(rows)) if i == 0 or rows[i] != rows[i - 1] + 1] + [len(rows)]
    spans = ((rows[first], end - first) for first, end in pairwise(bounds) if rows)
    parts = [chunk for start, count in spans for chunk in arrow_chunks(column.slice(start, count))]
    return pyarrow.chunked_array(parts, column.type)


def arrow_chunks(column: Any) -> list[Any]:
    """The arrays of an Arrow column."""
    return list(getattr(column, "chunks", [column]))


def _cells(array: Any) -> list[Any]:
    if hasattr(array, "storage"):  # an extension type
        is_uuid = array.type.extension_name == "arrow.uuid"
        return _each(_uuid, array.storage) if is_uuid else _cells(array.storage)
    convert = _CONVERTERS.get(type(array).__name__.replace("Large", "").replace("View", ""))
    return list(array.to_pylist()) if convert is None else convert(array)


def _each(form: Callable[[Any], Any], array: Any) -> list[Any]:
    return [None if value is None else form(value) for value in array.to_pylist()]


def _uuid(value: bytes) -> str:
    return str(uuid.UUID(bytes=value))


def _floats(array: Any) -> list[Any]:
    """The double of the fewest digits that give the same value in fewer bits: 0.1, not 0.10000000149."""
    precision = np.float16 if array.type.bit_width == 16 else np.float32
    return _each(lambda value: float(str(precision(value))), array)


def _strings(array: Any) -> list[Any]:
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        with extra("tune"):
            import pyarrow
        is_view = type(array).__name__ == "StringViewArray"
        array = array.view(pyarrow.binary_view()) if is_view else array.cast(pyarrow.large_binary())
        return _each(lambda value: value.decode("utf-8", "surrogateescape"), array)


def _bytes(array: Any) -> list[Any]:
    return _each(lambda value: base64.b64encode(value).decode("ascii"), array)


def _dates(array: Any) -> list[Any]:
    per_day = 1 if array.type.bit_width == 32 else _DAY * 1000
    return _each(lambda ticks: _date(ticks // per_day), _integers(array))


def _times(array: Any) -> list[Any]:
    ticks_per_second = _TICKS[array.type.unit]
    return _each(lambda ticks: _clock(ticks, ticks_per_second), _integers(array))


def _timestamps(array: Any) -> list[Any]:
    # a damaged file may name a zone in bytes that `tz` fails to decode
    per_second, zone = _TICKS[array.type.unit], "Z" if "tz=" in str(array.type) else ""

    def form(ticks: int) -> str:
        day, rest = divmod(ticks, _DAY * per_second)
        return f"{_date(day)}T{_clock(rest, per_second)}{zone}"

    return _each(form, _integers(array))


def _durations(array: Any) -> list[Any]:
    per_second = _TICKS[array.type.unit]
    return _each(lambda ticks: f"{'-' * (ticks < 0)}PT{_seconds(abs(ticks), per_second)}S", _integers(array))


def _intervals(array: Any) -> list[Any]:
    def form(value: Any) -> str:
        months, days, ticks = value
        return f"P{months}M{days}DT{'-' * (ticks < 0)}{_seconds(abs(ticks), _TICKS['ns'])}S"

    return _each(form, array)


def _integers(array: Any) -> Any:
    with extra("tune"):
        import pyarrow
    return array.view(pyarrow.int32() if array.type.bit_width == 32 else pyarrow.int64())


def _date(day: int) -> str:
    """ISO 8601, also for years that Python's own dates do not reach; day 0 is the first of 1970."""
    year, month, date = str(np.datetime64(day, "D")).rsplit("-", 2)
    number = int(year)
    return f"{number:{'04' if 0 <= number <= 9999 else '+05'}}-{month}-{date}"


def _clock(ticks: int, per_second: int) -> str:
    minutes, rest = divmod(ticks, 60 * per_second)
    seconds = _seconds(rest, per_second)
    return f"{minutes // 60:02}:{minutes % 60:02}:{'0' if rest < 10 * per_second else ''}{seconds}"


def _seconds(ticks: int, per_second: int) -> str:
    seconds, fraction = divmod(ticks, per_second)
    digits = len(str(per_second)) - 1
    return f"{seconds}.{fraction:0{digits}}".rstrip("0") if fraction else str(seconds)


def _lists(array: Any) -> list[Any]:
    starts, ends = _bounds(array)
    first, last = min(starts, default=0), max(ends, default=0)
    items = _cells(array.values.slice(first, last - first))
    rows = zip(starts, ends, array.is_valid().to_pylist(), strict=True)
    return [items[start - first : end - first] if valid else None for start, end, valid in rows]


def _bounds(array: Any) -> tuple[list[int], list[int]]:
    """Start and end of the items of each list among all values."""
    kind = type(array).__name__
    if kind == "FixedSizeListArray":
        size = array.type.list_size
        starts = [(array.offset + i) * size for i in range(len(array))]
        return starts, [start + size for start in starts]
    offsets = array.offsets.to_pylist()
    if kind.endswith("ViewArray"):
        sizes = array.sizes.to_pylist()
        return offsets, [start + size for start, size in zip(offsets, sizes, strict=True)]
    return offsets[:-1], offsets[1:]


def _maps(array: Any) -> list[Any]:
    return [row and [list(pair.values()) for pair in row] for row in _lists(array)]


def _structs(array: Any) -> list[Any]:
    names = unique_names(field.name for field in array.type)
    columns = [_cells(array.field(i)) for i in range(len(names))]  # flatten() aborts on a union in a field
    rows: Iterator[Any] = zip(*columns, strict=True) if columns else iter([()] * len(array))
    valid = array.is_valid().to_pylist()
    return [dict(zip(names, row, strict=True)) if ok else None for row, ok in zip(rows, valid, strict=True)]


def _dictionaries(array: Any) -> list[Any]:
    values = _cells(array.dictionary)
    return _each(values.__getitem__, array.indices)


def _runs(array: Any) -> list[Any]:
    cells: list[Any] = []
    for end, value in zip(array.run_ends.to_pylist(), _cells(array.values), strict=True):
        cells.extend([value] * (end - len(cells)))
    return cells[array.offset : array.offset + len(array)]


def _unions(array: Any) -> list[Any]:
    columns = {code: _cells(array.field(i)) for i, code in enumerate(array.type.type_codes)}
    codes = array.type_codes.to_pylist()
    positions = array.offsets.to_pylist() if array.type.mode == "dense" else range(len(array))
    return [columns[code][position] for code, position in zip(codes, positions, strict=True)]


def _decimals(array: Any) -> list[Any]:
    return _each(lambda value: format(value, "f"), array)


_CONVERTERS: dict[str, Callable[[Any], list[Any]]] = {  # by class of array, in any width of offsets
    "HalfFloatArray": _floats,
    "FloatArray": _floats,
    **{f"Decimal{bits}Array": _decimals for bits in (32, 64, 128, 256)},
    "StringArray": _strings,
    "BinaryArray": _bytes,
    "FixedSizeBinaryArray": _bytes,
    "Date32Array": _dates,
    "Date64Array": _dates,
    "Time32Array": _times,
    "Time64Array": _times,
    "TimestampArray": _timestamps,
    "DurationArray": _durations,
    "MonthDayNanoIntervalArray": _intervals,
    "ListArray": _lists,
    "FixedSizeListArray": _lists,
    "MapArray": _maps,
    "StructArray": _structs,
    "DictionaryArray": _dictionaries,
    "RunEndEncodedArray": _runs,
    "UnionArray": _unions,
}
