"""Types of carried columns: settled over all files of the input, and as parquet holds them."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

from cascadebert.data.arrow_cells import arrow_chunks, python_cells
from cascadebert.data.table import MISSING, ColumnType
from cascadebert.data.text_cells import escape, json_text, plain_text
from cascadebert.errors import DataError, extra, reason

if TYPE_CHECKING:
    import pyarrow

PARQUET = {"use_compliant_nested_type": False}  # the items of lists keep their name

# pyarrow may crash on these, or lose rows
_UNSAFE = re.compile(
    r"(union|dictionary)<(?!values=(large_)?(string|binary),|values=(u?int\d+|float|double),)"
)

_KINDS: Mapping[type, ColumnType] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def unify_types(one: ColumnType, other: ColumnType) -> ColumnType | None:
    """The type that holds every value of two types; None if there is none.

    >>> unify_types("integer", "number"), unify_types("string", "boolean")
    ('number', 'json')
    """
    if "null" in (one, other):
        return other if one == "null" else one
    if isinstance(one, str) and isinstance(other, str):
        return _unify_kinds(one, other)
    with extra("tune"):
        import pyarrow
    if "json" in (one, other):
        return "json" if pyarrow.null() in (one, other) else None
    schemas = [pyarrow.schema([("", arrow_type(column_type))]) for column_type in (one, other)]
    try:
        common = pyarrow.unify_schemas(schemas, promote_options="permissive").types[0]
        for schema in schemas:
            cast(pyarrow.nulls(1, schema.types[0]), common, Counter())
    except pyarrow.ArrowException:
        return None
    if "long" in (one, other) and pyarrow.types.is_floating(common):
        return None
    return None if any(_narrows(schema.types[0], common) for schema in schemas) else common


def arrow_type(column_type: ColumnType) -> pyarrow.DataType:
    """The Arrow type of a column in parquet."""
    with extra("tune"):
        import pyarrow
    if isinstance(column_type, pyarrow.DictionaryType):
        values = column_type.value_type  # only those of strings are read as they were written
        is_plain = pyarrow.types.is_primitive(values) or pyarrow.types.is_decimal(values)
        return values if is_plain else column_type
    if not isinstance(column_type, str):
        return column_type
    named = {
        "boolean": pyarrow.bool_(),
        "integer": pyarrow.int64(),
        "long": pyarrow.int64(),
        "number": pyarrow.float64(),
    }
    return named.get(column_type, pyarrow.string())


def arrow_column(column: Any, to: ColumnType | None, notes: Counter[str]) -> Any:
    """A column as an Arrow array of a type, its own by default.

    Raises ValueError, TypeError, OverflowError or ArrowException if the type does not hold a cell.
    """
    with extra("tune"):
        import pyarrow
    if isinstance(column, list):
        kind = to if isinstance(to, str) else _kind(column)
        if kind is None:
            return pyarrow.nulls(len(column), arrow_type("string" if to is None else to))
        column = _to_arrow(column, kind, notes)
    return cast(column, arrow_type(column.type if to is None else to), notes)


def cast(column: Any, to: pyarrow.DataType, notes: Counter[str]) -> Any:
    """An Arrow array in a wider type, its texts in UTF-8. Raises ArrowException if a value does not fit."""
    with extra("tune"):
        import pyarrow
        import pyarrow.compute
    if column.type != to:
        options = pyarrow.compute.CastOptions(to, allow_float_truncate=True, allow_invalid_utf8=True)
        column = pyarrow.compute.cast(column, options=options)
    is_dictionary = isinstance(to, pyarrow.DictionaryType)
    if is_dictionary and any(chunk.dictionary.null_count for chunk in arrow_chunks(column)):
        # parquet knows no null among the values of a dictionary
        column = column.cast(to.value_type).dictionary_encode().cast(to)
    if str(to.value_type if is_dictionary else to) not in ("string", "large_string", "string_view"):
        return column
    try:
        column.validate(full=True)
    except pyarrow.ArrowInvalid:
        return pyarrow.array([cell and escape(cell, notes) for cell in python_cells(column)], to)
    return column


def check_holds(types: Mapping[str, ColumnType], suffix: str, source: str) -> None:
    """Raise DataError with the first column that a format cannot hold; the text formats hold every type."""
    if suffix != ".parquet":
        return
    with extra("tune"):
        import pyarrow
    for name, type_ in types.items():
        nulls = pyarrow.nulls(1, arrow_type(type_))
        fault, fault_of_rows = map(_parquet_fault, (nulls.slice(0, 0), nulls))
        if fault is None and isinstance(fault_of_rows, NotImplementedError):
            fault = fault_of_rows  # other faults are those of a null where none may be
        _raise_fault(fault, name, nulls.type, source)


def check_parquet_holds(table: pyarrow.Table, source: str) -> None:
    """Raise DataError with the first column of an Arrow table that cannot be written to parquet and read."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        _raise_fault(_parquet_fault(column), name, column.type, source)


def _parquet_fault(column: Any) -> Exception | None:
    with extra("tune"):
        import pyarrow.parquet
    if match := _UNSAFE.search(str(column.type)):
        return NotImplementedError(f"no support for {match[1]}")
    memory = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.table([column], ["column"]), memory, **PARQUET)
        if len(column):
            pyarrow.parquet.read_table(memory)
    except (pyarrow.ArrowException, OSError) as error:
        return error
    return None


def _raise_fault(fault: Exception | None, name: str, type_: pyarrow.DataType, source: str) -> None:
    if fault is not None:
        raise DataError(
            f"{source}: parquet cannot hold the column '{name:.80}' of type {type_!s:.160} "
            f"({reason(fault):.160}). Write jsonl, which holds any value."
        ) from fault


def _kind(cells: list[Any]) -> ColumnType | None:
    kinds = [_KINDS.get(kind, "json") for kind in set(map(type, cells)) - {type(None), type(MISSING)}]
    return reduce(_unify_kinds, kinds) if kinds else None


def _unify_kinds(one: ColumnType, other: ColumnType) -> ColumnType:
    if one == other:
        return one
    if {one, other} == {"integer", "long"}:
        return "long"
    return "number" if {one, other} == {"integer", "number"} else "json"


def _narrows(own: pyarrow.DataType, common: pyarrow.DataType) -> bool:
    """True where Arrow's common type does not reach every value: years in nanoseconds, the top of uint64."""
    far_years = re.search(r"(timestamp|duration)\[(s|ms|us)\b", str(own))
    return bool(far_years and "[ns" in str(common)) or ("uint64" in str(own) and "uint64" not in str(common))


def _to_arrow(cells: list[Any], kind: ColumnType, notes: Counter[str]) -> pyarrow.Array:
    with extra("tune"):
        import pyarrow
    convert: Mapping[str, Callable[[Any], Any]] = {
        "string": lambda cell: escape(plain_text(cell, notes), notes),
        "integer": int,
        "long": int,
        "number": float,
        "json": lambda cell: json_text(cell, notes),
    }
    form = convert.get(kind, lambda cell: cell)
    values = [None if cell is None or cell is MISSING else form(cell) for cell in cells]
    return pyarrow.array(values, arrow_type(kind))
