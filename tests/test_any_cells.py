"""Any table of Arrow and any cells of JSON through every format: nothing stops a run, all formats agree."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carried import HIGHEST, LOWEST, csv_rows, records, strict, viewed, write
from cascadebert.data.column_types import check_holds
from cascadebert.data.table import MISSING, Json, Table
from cascadebert.data.writers import join_parts, write_table
from cascadebert.errors import DataError

FUZZ = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
TICKS = [
    pa.int32(), pa.int64(), pa.date32(), pa.time32("ms"), pa.time64("us"), pa.time64("ns"),
    pa.timestamp("ms"), pa.timestamp("us", "Mars/X"), pa.timestamp("ns", "+01:00"), pa.duration("s"),
]  # fmt: skip
VALUES = {
    pa.null(): st.none(),
    pa.bool_(): st.booleans(),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float16(): st.floats(width=16),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.decimal128(38, 5): st.decimals(-(10**20), 10**20, places=5),
    pa.decimal256(70, 0): st.decimals(-(10**20), 10**20, places=0),
    pa.string(): st.text(max_size=4),
    pa.large_string(): st.text(max_size=4),
    pa.string_view(): st.text(max_size=20),
    pa.binary(): st.binary(max_size=4),
    pa.large_binary(): st.binary(max_size=4),
    pa.binary_view(): st.binary(max_size=20),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.uuid(): st.binary(min_size=16, max_size=16),
    pa.json_(): st.text(max_size=4),
    pa.month_day_nano_interval(): st.tuples(*[st.integers(-99, 99)] * 2, st.integers(LOWEST, HIGHEST)),
}


def optional(draw, rows: int, values: st.SearchStrategy) -> list[object]:
    return draw(st.lists(st.none() | values, min_size=rows, max_size=rows))


def leaf(draw, rows: int) -> pa.Array:
    """An array of a type without children."""
    to = draw(st.sampled_from([*TICKS, *VALUES, "not UTF-8", "not UTF-8 view"]))
    if isinstance(to, str):
        raw = optional(draw, rows, st.binary(max_size=14))
        return (
            pa.array(raw, pa.binary_view()).view(pa.string_view())
            if "view" in to
            else pa.array(raw).cast(pa.binary()).view(pa.string())
        )
    if to not in TICKS:
        return pa.array(optional(draw, rows, VALUES[to]), to)
    bits = to.bit_width - 1
    return viewed(optional(draw, rows, st.integers(-(2**bits), 2**bits - 1) | st.just(-(2**bits))), to)


def lists(draw, rows: int, depth: int, kind: str) -> pa.Array:
    sizes = draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))
    ends = [sum(sizes[:i]) for i in range(rows + 1)]
    nulls = pa.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), pa.bool_())
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(arrays(draw, 2 * rows, depth), 2, mask=nulls)
    values = arrays(draw, ends[-1], depth)
    if kind == "map":
        keys = pa.array(map(str, range(ends[-1])), pa.string())
        return pa.MapArray.from_arrays(pa.array(ends, pa.int32()), keys, values)
    if kind == "view":
        return pa.ListViewArray.from_arrays(ends[:-1], sizes, values, mask=nulls)
    array = pa.LargeListArray if kind == "large" else pa.ListArray
    return array.from_arrays(
        pa.array(ends, pa.int64() if kind == "large" else pa.int32()), values, mask=nulls
    )


def struct(draw, rows: int, depth: int, kind: str) -> pa.Array:
    names = draw(st.lists(st.sampled_from(["a", "b", "é"]), max_size=3))
    nulls = pa.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), pa.bool_())
    if not names:
        return pa.array([None if null else {} for null in nulls.to_pylist()], pa.struct([]))
    return pa.StructArray.from_arrays([arrays(draw, rows, depth) for _ in names], names=names, mask=nulls)


def encoded(draw, rows: int, depth: int, kind: str) -> pa.Array:
    if kind == "runs":
        return pc.run_end_encode(pa.array(optional(draw, rows, st.sampled_from(["a", "é"])), pa.string()))
    values = arrays(draw, 2, depth)
    if kind == "dictionary":
        if values.null_count or "duration" in str(values.type):  # which parquet gives back as integers
            values = pa.array(["é"])
        indices = pa.array(optional(draw, rows, st.integers(0, len(values) - 1)), pa.int8())
        return pa.DictionaryArray.from_arrays(indices, values)
    if kind == "extension":
        storage = arrays(draw, rows, depth)
        return pa.ExtensionArray.from_storage(pa.opaque(storage.type, "x", "y"), storage)
    codes = pa.array(draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows)), pa.int8())
    if kind == "sparse":
        return pa.UnionArray.from_sparse(codes, [arrays(draw, rows, depth) for _ in range(2)])
    return pa.UnionArray.from_dense(codes, pa.array([1] * rows, pa.int32()), [values, leaf(draw, 2)])


NESTED = {
    **dict.fromkeys(["list", "large", "fixed", "view", "map"], lists),
    "struct": struct,
    **dict.fromkeys(["runs", "dictionary", "extension", "sparse", "dense"], encoded),
}


def arrays(draw, rows: int, depth: int) -> pa.Array:
    """An array of any type, nested up to a depth; at times a slice."""
    kind = draw(st.sampled_from(["leaf", "leaf", *NESTED])) if depth and rows else "leaf"
    start = draw(st.integers(0, 1))
    made = leaf(draw, rows + start) if kind == "leaf" else NESTED[kind](draw, rows + start, depth - 1, kind)
    return made.slice(start)


@st.composite
def tables(draw) -> dict[str, pa.Array]:
    rows = draw(st.integers(1, 3))
    return {name: arrays(draw, rows, 2) for name in "xy"}


ODD_FOR_PARQUET = re.compile(
    r": (string|binary)_view|struct<>|_union<|run_end|interval|dictionary<values=(?!string,|int)"
)


def same(text: str, value: object) -> bool:
    """True if a cell of csv says what that of jsonl does."""
    if value is None:
        return text in ("", "NaN")
    return text == value if isinstance(value, str) else json.loads(text) == value


def check_any_table(folder: Path, columns: dict[str, pa.Array]) -> None:
    rows = len(columns["x"])
    found = records(write(folder, ".jsonl", columns))
    assert [list(record) for record in found] == [["x", "y"]] * rows
    header, *cells = csv_rows(write(folder, ".csv", columns))
    assert header == ["x", "y"] and len(cells) == rows
    for texts, record in zip(cells, found, strict=True):
        assert all(map(same, texts, record.values()))
    assert write(folder, ".tsv", columns).read_bytes().count(b"\n") == rows + 1
    try:
        back = through_parquet(folder, columns)
    except DataError:
        assert any(ODD_FOR_PARQUET.search(str(column.type)) for column in columns.values())
        return
    assert records(write(folder, ".jsonl", dict(zip(back.column_names, back.columns, strict=True)))) == found


def through_parquet(folder: Path, columns: dict[str, pa.Array]) -> pa.Table:
    """The columns after they were checked, written in two parts and joined."""
    types = {name: column.type for name, column in columns.items()}
    check_holds(types, ".parquet", "given")
    parts = [folder / "1.parquet", folder / "2.parquet"]
    for part, (first, rows) in zip(parts, [(0, 1), (1, 2)], strict=True):
        cells = {name: column.slice(first, rows) for name, column in columns.items()}
        write_table(Table(cells, "given"), part, types)
    join_parts(parts, folder / "all.parquet", columns=list(columns))
    return pq.read_table(folder / "all.parquet")


@settings(FUZZ, max_examples=100)
@given(columns=tables())
def test_any_arrow_table_in_every_format(columns, tmp_path_factory):
    check_any_table(tmp_path_factory.mktemp("any"), columns)


@pytest.mark.slow
@settings(FUZZ, max_examples=2000)
@given(columns=tables())
def test_many_arrow_tables_in_every_format(columns, tmp_path_factory):
    check_any_table(tmp_path_factory.mktemp("any"), columns)


TOKENS = ["NaN", "-Infinity", "1.50", "1e999", "null", "true", r'"\ud83d"', '"NaN"', '"caf\udce9"']


def array_or_object(items: list[str]) -> str:
    pairs = (f'"{i}": {item}' for i, item in enumerate(items))
    return f"[{', '.join(items)}]" if len(items) % 2 else f"{{{', '.join(pairs)}}}"


RAW = st.recursive(
    st.sampled_from(TOKENS), lambda inner: st.lists(inner, max_size=3).map(array_or_object), max_leaves=5
)
CELLS = st.one_of(
    st.text(st.characters(codec=None), max_size=5),
    st.booleans(),
    st.integers(LOWEST, HIGHEST),
    st.sampled_from([None, MISSING, Json("9" * 30)]),
    RAW.filter(lambda raw: raw[0] in "[{NI-1").map(Json),
)


@settings(FUZZ, max_examples=200)
@given(cells=st.lists(CELLS, min_size=1, max_size=4))
def test_any_cells_of_json_in_every_format(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    columns = {"a": cells, "b": ["x"] * len(cells)}
    found = records(write(folder, ".jsonl", columns))
    assert ["a" in record for record in found] == [cell is not MISSING for cell in cells]
    assert [row[1] for row in csv_rows(write(folder, ".csv", columns))] == ["b", *columns["b"]]
    assert write(folder, ".tsv", columns).read_bytes().count(b"\n") == len(cells) + 1
    stored = pq.read_table(write(folder, ".parquet", columns, {"a": "json", "b": "string"}))["a"].to_pylist()
    values = [None if text is None else strict(f'{{"a": {text}}}')["a"] for text in stored]
    assert values == [record.get("a") for record in found]
