"""Generated parquet and Arrow files with columns of any type."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from generated import (
    Case,
    Cell,
    Rng,
    Row,
    chance,
    draw_labels,
    escaped,
    json_string,
    names_of,
    odd_text,
    pick,
    sentence,
)


class Value(NamedTuple):
    """A value for pyarrow, and its cell."""

    value: Any
    cell: Cell


class Kind(NamedTuple):
    """A type with some of its values."""

    type: pa.DataType
    values: Sequence[Value]


def bare(value: Any, text: str) -> Value:
    """A value that has the same form in csv and jsonl."""
    return Value(value, Cell(text, text))


def quoted(value: Any, text: str, *, written: str | None = None) -> Value:
    """A value that is a string in jsonl."""
    return Value(value, Cell(text if written is None else written, json_string(text)))


def strings(*texts: str) -> list[Value]:
    """Strings as they are."""
    return [quoted(text, text) for text in texts]


NULL = Value(None, Cell("", "null"))
FLOATS = [
    bare(0.5, "0.5"),
    bare(-2.0, "-2.0"),
    Value(float("nan"), Cell("NaN", "null")),
    Value(float("inf"), Cell("Infinity", '"Infinity"')),
    Value(float("-inf"), Cell("-Infinity", '"-Infinity"')),
]
TEXTS = strings("", "a", "a,b", 'a "b"', "a\nb", "a\tb", "é", "\U0001f3ac", "1", "\x00", "NaN", "\ufeff")
SECONDS = [
    (0, "1970-01-01T00:00:00"),
    (-1, "1969-12-31T23:59:59"),
    (253_402_300_800, "+10000-01-01T00:00:00"),
    (-62_135_596_801, "0000-12-31T23:59:59"),
    (1_709_210_096, "2024-02-29T12:34:56"),
]


def timestamps(per_second: int, end: str = "") -> list[Value]:
    """Timestamps, near and far, of ticks of a size."""
    near = SECONDS if per_second < 10**9 else [SECONDS[i] for i in (0, 1, 4)]
    found = [quoted(ticks * per_second, text + end) for ticks, text in near]
    fraction = {1: "", 10**3: ".005", 10**6: ".000005", 10**9: ".000000005"}[per_second]
    return [*found, *[quoted(5, f"1970-01-01T00:00:00{fraction}{end}")] * bool(fraction)]


SIMPLE: Sequence[Kind] = (
    Kind(pa.int8(), [bare(-128, "-128"), bare(0, "0")]),
    Kind(pa.int16(), [bare(-5, "-5")]),
    Kind(pa.int64(), [bare(2**63 - 1, str(2**63 - 1)), bare(-(2**63), str(-(2**63)))]),
    Kind(pa.uint8(), [bare(255, "255")]),
    Kind(pa.uint64(), [bare(2**64 - 1, str(2**64 - 1))]),
    Kind(pa.float16(), FLOATS),
    Kind(pa.float32(), [*FLOATS, bare(0.1, "0.1"), bare(1e30, "1e+30")]),
    Kind(pa.float64(), [*FLOATS, bare(0.1, "0.1"), bare(1e300, "1e+300")]),
    Kind(pa.bool_(), [bare(True, "true"), bare(False, "false")]),
    Kind(pa.string(), TEXTS),
    Kind(pa.large_string(), TEXTS),
    Kind(pa.string_view(), TEXTS),
    Kind(pa.binary(), [quoted(b"", ""), quoted(b"\x00\xff", "AP8="), quoted(b"abc", "YWJj")]),
    Kind(pa.large_binary(), [quoted(b"abc", "YWJj")]),
    Kind(pa.binary(2), [quoted(b"\x00\xff", "AP8=")]),
    Kind(pa.decimal128(10, 2), [quoted(Decimal("12.50"), "12.50"), quoted(Decimal("-0.01"), "-0.01")]),
    Kind(pa.decimal256(60, 0), [quoted(Decimal(10**50), str(10**50))]),
    Kind(pa.date32(), [quoted(0, "1970-01-01"), quoted(-1, "1969-12-31"), quoted(2_932_897, "+10000-01-01")]),
    Kind(pa.date64(), [quoted(86_400_000, "1970-01-02")]),
    Kind(pa.time32("s"), [quoted(3661, "01:01:01")]),
    Kind(pa.time32("ms"), [quoted(86_399_999, "23:59:59.999")]),
    Kind(pa.time64("us"), [quoted(1, "00:00:00.000001"), quoted(0, "00:00:00")]),
    Kind(pa.time64("ns"), [quoted(3_600_000_000_001, "01:00:00.000000001")]),
    Kind(pa.timestamp("s"), timestamps(1)),
    Kind(pa.timestamp("ms"), timestamps(10**3)),
    Kind(pa.timestamp("us"), timestamps(10**6)),
    Kind(pa.timestamp("ns"), timestamps(10**9)),
    Kind(pa.timestamp("us", "UTC"), timestamps(10**6, "Z")),
    Kind(pa.timestamp("ms", "Europe/Berlin"), timestamps(10**3, "Z")),
    Kind(pa.timestamp("ns", "+05:30"), timestamps(10**9, "Z")),
    Kind(pa.timestamp("us", "Mars/Phobos"), timestamps(10**6, "Z")),
    Kind(pa.duration("s"), [quoted(90, "PT90S"), quoted(-90, "-PT90S"), quoted(0, "PT0S")]),
    Kind(pa.duration("ms"), [quoted(1500, "PT1.5S"), quoted(-1500, "-PT1.5S")]),
    Kind(pa.duration("ns"), [quoted(1, "PT0.000000001S")]),
    Kind(pa.null(), [NULL]),
    Kind(pa.uuid(), [quoted(bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f")]),
    Kind(pa.dictionary(pa.int8(), pa.string()), TEXTS),
    Kind(pa.dictionary(pa.int32(), pa.int64()), [bare(7, "7"), bare(-7, "-7")]),
)
FLAT = (pa.uuid(), pa.string_view())  # types that pyarrow does not make or write inside of others
UNHELD: Sequence[tuple[pa.DataType, Any]] = (  # in parquet
    (pa.struct([]), {}),
    (pa.month_day_nano_interval(), (1, 2, 3)),
    (pa.list_(pa.struct([])), [{}]),
    (pa.run_end_encoded(pa.int32(), pa.string()), "a"),
)


def as_json(values: Sequence[Value]) -> list[str]:
    """The JSON of each value."""
    return [str(value.cell.json) for value in values]


def nested(value: Any, raw: str) -> Value:
    """A list, struct or map."""
    return Value(value, Cell(raw, raw, is_json=True))


def draw_kind(rng: Rng, depth: int = 2) -> Kind:
    """A type of any depth, with some values."""
    if depth == 0 or chance(rng, 0.6):
        return pick(rng, SIMPLE if depth == 2 else [kind for kind in SIMPLE if kind.type not in FLAT])
    inner = draw_kind(rng, depth - 1)
    if isinstance(inner.type, pa.DictionaryType) or inner.type == pa.null():
        return draw_kind(rng, depth)

    def some(n: int) -> list[Value]:
        return [pick(rng, (*inner.values, NULL)) for _ in range(n)]

    form = pick(rng, ("list", "large list", "pairs", "struct", "map"))
    if form == "struct":
        other, draws = pick(rng, SIMPLE[:5]), [some(1)[0] for _ in range(3)]
        added = [pick(rng, (*other.values, NULL)) for _ in draws]
        values = [
            nested({"a b": one.value, "c": two.value}, f'{{"a b": {one.cell.json}, "c": {two.cell.json}}}')
            for one, two in zip(draws, added, strict=True)
        ]
        return Kind(pa.struct([("a b", inner.type), ("c", other.type)]), values)
    if form == "map":
        items = [some(n) for n in (0, 1, 2)]
        values = [
            nested(
                [(f"k{i}", item.value) for i, item in enumerate(drawn)],
                "[" + ", ".join(f'["k{i}", {raw}]' for i, raw in enumerate(as_json(drawn))) + "]",
            )
            for drawn in items
        ]
        return Kind(pa.map_(pa.string(), inner.type), values)
    made = {"list": pa.list_, "large list": pa.large_list, "pairs": lambda item: pa.list_(item, 2)}[form]
    lists = [some(n) for n in ((2, 2) if form == "pairs" else (0, 1, 3))]
    values = [nested([v.value for v in drawn], f"[{', '.join(as_json(drawn))}]") for drawn in lists]
    return Kind(made(inner.type), values)


def arrow_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An array; of an extension by its storage."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    return pa.array(values, kind)


def not_utf8(values: Sequence[bytes]) -> pa.Array:
    """Strings that no writer checked."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


def written(table: pa.Table, name: str, rows: int) -> bytes:
    """A file in the format of its name, in several groups of rows."""
    sink = io.BytesIO()
    if name.endswith(".parquet"):
        rows = (
            max(1, table.num_rows) if "view" in str(table.schema) else rows
        )  # pyarrow writes no slices of views
        pq.write_table(table, sink, row_group_size=rows, use_compliant_nested_type=False)
        return sink.getvalue()
    new = pa.ipc.new_stream if "stream" in name else pa.ipc.new_file
    with new(sink, table.schema) as target:
        for batch in table.combine_chunks().to_batches(max_chunksize=rows):
            target.write_batch(batch)
    return sink.getvalue()


def read_back(table: pa.Table) -> pa.Table:
    """The table as pyarrow gives it back from parquet."""
    return pq.read_table(io.BytesIO(written(table, ".parquet", 100)))


TEXT_TYPES = (
    pa.string(),
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.string()),
)

NOT_TEXT = (
    pa.int64(),
    pa.bool_(),
    pa.binary(),
    pa.decimal128(10, 2),
    pa.timestamp("s"),
    pa.timestamp("us", "Mars/Phobos"),
)


def text_column(rng: Rng, n: int) -> tuple[pa.Array, list[str], list[str], list[Cell]]:
    """Texts as an array, as strings and as cells, and their faults."""
    texts, faults = [odd_text(rng) for _ in range(n)], [""] * n
    if chance(rng, 0.05):
        raw = [b"caf\xe9 film" if chance(rng, 0.5) else text.encode() for text in texts]
        decoded = [item.decode("utf-8", "surrogateescape") for item in raw]
        faults = ["UTF-8" if item == b"caf\xe9 film" else "" for item in raw]
        return (
            not_utf8(raw),
            decoded,
            faults,
            [quoted(text, escaped(text), written=escaped(text)).cell for text in decoded],
        )
    if chance(rng, 0.05):
        wrong = pick(rng, [kind for kind in SIMPLE if kind.type in NOT_TEXT])
        values = [pick(rng, wrong.values) for _ in range(n)]
        return (
            arrow_array([v.value for v in values], wrong.type),
            [""] * n,
            ["expected text"] * n,
            [v.cell for v in values],
        )
    given: list[str | None] = list(texts)
    if chance(rng, 0.15):
        place = int(rng.integers(n))
        given[place], faults[place] = pick(rng, (None, "", " ")), "empty text"
    cells = [NULL.cell if text is None else quoted(text, text).cell for text in given]
    return pa.array(given, pick(rng, TEXT_TYPES)), [text or "" for text in given], faults, cells


def table_case(rng: Rng) -> Case:
    """A table with texts, perhaps labels, and other columns of any type."""
    n = int(rng.integers(1, 9))
    text, texts, faults, cells = text_column(rng, n)
    columns, forms = {"text": text}, {"text": cells}
    for name in names_of(rng):
        kind = draw_kind(rng)
        values = [pick(rng, (*kind.values, NULL)) for _ in range(n)]
        columns[name] = arrow_array([value.value for value in values], kind.type)
        forms[name] = [value.cell for value in values]
    if chance(rng, 0.1):
        raw = [pick(rng, (b"ok", b"\xff\xfe", b"na\xefve")) for _ in range(n)]
        columns["odd"] = not_utf8(raw)
        forms["odd"] = [quoted("", escaped(item.decode("utf-8", "surrogateescape"))).cell for item in raw]
        forms["odd"] = [cell._replace(text=json.loads(str(cell.json))) for cell in forms["odd"]]
    labels, metadata = None, None
    if chance(rng, 0.6):
        column, forms["label"], labels, metadata = label_column(rng, n)
        columns["label"] = column
    order = [str(name) for name in rng.permutation(list(columns))]
    table = pa.table({name: columns[name] for name in order}).replace_schema_metadata(metadata)
    name = pick(rng, ("in.parquet", "in.parquet", "in.arrow", "in-stream.arrow"))
    rows = tuple(
        Row({name: forms[name][i] for name in order}, texts[i], faults[i], None, i + 1, name)
        for i in range(n)
    )
    in_utf8 = {name: pa.array([cell.text for cell in forms[name]]) for name in ("odd",) if name in columns}
    if "UTF-8" in faults:
        in_utf8["text"] = pa.array(list(map(escaped, texts)))
    expected = pa.table({**dict(zip(order, table.columns, strict=True)), **in_utf8})
    kind = "parquet" if name.endswith("parquet") else "arrow"
    return Case(
        kind, {name: written(table, name, 3)}, name, rows, tuple(order), labels=labels, arrow=expected
    )


def label_column(
    rng: Rng, n: int
) -> tuple[pa.Array, list[Cell], tuple[str | None, ...], dict[bytes, bytes] | None]:
    """Labels as names or ids, which the metadata may name in another order."""
    written_labels, labels = draw_labels(rng, n)
    if chance(rng, 0.7):
        cells = [quoted(label, label).cell for label in written_labels]
        return pa.array(written_labels), cells, labels, None
    names, kind = ["positive", "negative"], pick(rng, (pa.int64(), pa.int8()))
    ids = [int(rng.integers(-1 if chance(rng, 0.1) else 0, 2)) for _ in range(n)]
    feature = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    found = tuple(None if i < 0 else names[i] for i in ids)
    metadata = {b"huggingface": json.dumps(feature).encode()}
    return pa.array(ids, kind), [bare(i, str(i)).cell for i in ids], found, metadata


def unheld_case(rng: Rng) -> Case:
    """An Arrow file with a column that parquet cannot hold."""
    n = int(rng.integers(1, 5))
    kind, value = pick(rng, UNHELD)
    table = pa.table({"text": [sentence(rng) for _ in range(n)], "odd": pa.array([value] * n, kind)})
    case = Case("arrow", {"in.arrow": written(table, "in.arrow", 3)}, "in.arrow", output="out.parquet")
    return replace(case, refused=("'odd'", "parquet", "jsonl"), evaluate="")


def repeated_case(rng: Rng) -> Case:
    """A table that has a name twice, and one with a dot in it."""
    n = int(rng.integers(1, 5))
    texts = [sentence(rng) for _ in range(n)]
    named = ["text", "a", "a", "b.c", pick(rng, ("", "d"))]
    columns = [pa.array(texts), *(pa.array([f"{k}{i}" for i in range(n)]) for k in range(4))]
    names = ["text", "a", "a.1", "b.c", named[-1]]
    name = pick(rng, ("in.parquet", "in.arrow"))
    file = written(pa.Table.from_arrays(columns, names=named), name, 2)
    cells = [
        dict(zip(names, (quoted(v, v).cell for v in row), strict=True))
        for row in zip(*map(pa.Array.to_pylist, columns), strict=True)
    ]
    rows = tuple(Row(row, texts[i], "", None, i + 1, name) for i, row in enumerate(cells))
    return Case("repeated names", {name: file}, name, rows, tuple(names), arrow=pa.table(columns, names))


def damaged_case(rng: Rng) -> Case:
    """A file that was cut, or has nothing of its format in it."""
    n = int(rng.integers(20, 200))
    table = pa.table({"text": [sentence(rng) for _ in range(n)], "n": list(range(n))})
    name = pick(rng, ("in.parquet", "in.parquet", "in.arrow", "in-stream.arrow"))
    whole = written(table, name, n)
    cut = whole[: int(rng.integers(1, len(whole) - 300))]
    content = pick(rng, (cut, cut, b"", b"text\nfine film\n"))
    words = (name, "parquet" if name.endswith("parquet") else "Arrow")
    return Case("damaged parquet or arrow", {name: content}, name, refused=words)


def empty_case(rng: Rng) -> Case:
    """A table without rows."""
    name = pick(rng, ("in.parquet", "in.arrow"))
    table = pa.table({"text": pa.array([], pa.string()), "n": pa.array([], pa.int8())})
    return Case("table without rows", {name: written(table, name, 1)}, name, refused=("empty",))


MAKERS = ((22, table_case), (2, unheld_case), (2, repeated_case), (4, damaged_case), (1, empty_case))
