"""Cells that are only carried along: a defined form in every format, and nothing that stops a run."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from carried import HIGHEST, LOWEST, csv_rows, records, viewed, write
from cascadebert.data.arrow_cells import python_cells, take_rows
from cascadebert.data.column_types import check_holds, unify_types
from cascadebert.data.table import MISSING, Json, Table
from cascadebert.data.writers import join_parts, write_table
from cascadebert.errors import DataError

TEXT_FORMATS = (".csv", ".tsv", ".jsonl")


def one(value: object, to: pa.DataType) -> pa.Array:
    return pa.array([value], to)


OPAQUE = pa.opaque(pa.int8(), "x", "y")
TWICE = pa.struct([("a", pa.int8()), ("a", pa.string())])
TREE = pa.struct([("f", pa.list_(pa.float64())), ("d", pa.date32())])
FORMS = {  # cell of Arrow, text in csv and tsv, value in jsonl
    "null": (one(None, pa.null()), "", None),
    "null of int": (one(None, pa.int8()), "", None),
    "boolean": (one(True, pa.bool_()), "true", True),
    "int8": (one(-128, pa.int8()), "-128", -128),
    "uint64": (one(2**64 - 1, pa.uint64()), "18446744073709551615", 2**64 - 1),
    "half": (one(0.1, pa.float16()), "0.1", 0.1),
    "float": (one(0.1, pa.float32()), "0.1", 0.1),
    "double": (one(1e-7, pa.float64()), "1e-07", 1e-7),
    "NaN": (one(float("nan"), pa.float32()), "NaN", None),
    "infinity": (one(float("inf"), pa.float64()), "Infinity", "Infinity"),
    "-infinity": (one(float("-inf"), pa.float16()), "-Infinity", "-Infinity"),
    "decimal": (one("-12345678901234567890.10", pa.string()).cast(pa.decimal128(30, 2)),
                "-12345678901234567890.10", "-12345678901234567890.10"),
    "decimal256": (one("9" * 60, pa.string()).cast(pa.decimal256(60, 0)), "9" * 60, "9" * 60),
    "small decimal": (one("0.0000001", pa.string()).cast(pa.decimal128(9, 7)), "0.0000001", "0.0000001"),
    "large string": (one("é,☃", pa.large_string()), "é,☃", "é,☃"),
    "string view": (one("a\"b", pa.string_view()), 'a"b', 'a"b'),
    "not UTF-8": (one(b"caf\xe9", pa.binary()).view(pa.string()), r"caf\xe9", r"caf\xe9"),
    "not UTF-8 view": (one(b"\xff", pa.binary_view()).view(pa.string_view()), r"\xff", r"\xff"),
    "bytes": (one(b"\x00\xff", pa.binary()), "AP8=", "AP8="),
    "fixed bytes": (one(b"abc", pa.binary(3)), "YWJj", "YWJj"),
    "date": (viewed([0], pa.date32()), "1970-01-01", "1970-01-01"),
    "early date": (viewed([-719_529], pa.date32()), "-0001-12-31", "-0001-12-31"),
    "far date": (viewed([2**31 - 1], pa.date32()), "+5881580-07-11", "+5881580-07-11"),
    "date64": (viewed([86_400_000], pa.date64()), "1970-01-02", "1970-01-02"),
    "time": (viewed([3_661], pa.time32("s")), "01:01:01", "01:01:01"),
    "time64": (viewed([86_399_999_999_999], pa.time64("ns")), "23:59:59.999999999", "23:59:59.999999999"),
    "timestamp": (viewed([1_500], pa.timestamp("ms")), "1970-01-01T00:00:01.5", "1970-01-01T00:00:01.5"),
    "zone": (viewed([0], pa.timestamp("us", "Mars/Olympus")), "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
    "lowest ns": (viewed([LOWEST], pa.timestamp("ns")), *["1677-09-21T00:12:43.145224192"] * 2),
    "highest us": (viewed([HIGHEST], pa.timestamp("us")), *["+294247-01-10T04:00:54.775807"] * 2),
    "lowest s": (viewed([LOWEST], pa.timestamp("s", "UTC")), *["-292277022657-01-27T08:29:52Z"] * 2),
    "duration": (viewed([1_500], pa.duration("ms")), "PT1.5S", "PT1.5S"),
    "lowest duration": (viewed([LOWEST], pa.duration("ns")), *["-PT9223372036.854775808S"] * 2),
    "interval": (one((1, -2, 3_000_000_000), pa.month_day_nano_interval()), "P1M-2DT3S", "P1M-2DT3S"),
    "uuid": (pa.array([bytes(16)], pa.uuid()), *["00000000-0000-0000-0000-000000000000"] * 2),
    "json extension": (pa.array(["[1]"], pa.json_()), "[1]", "[1]"),
    "extension": (pa.ExtensionArray.from_storage(OPAQUE, one(3, pa.int8())), "3", 3),
    "list": (one([1, None], pa.list_(pa.int8())), "[1, null]", [1, None]),
    "list of NaN": (one([float("nan"), float("-inf")], pa.large_list(pa.float32())),
                    '[null, "-Infinity"]', [None, "-Infinity"]),
    "fixed list": (one([[1], []], pa.list_(pa.list_(pa.int8()), 2)), "[[1], []]", [[1], []]),
    "list view": (one(["é"], pa.list_view(pa.string())), '["é"]', ["é"]),
    "list of bad text": (pa.ListArray.from_arrays([0, 1], one(b"\xe9", pa.binary()).view(pa.string())),
                         r'["\\xe9"]', [r"\xe9"]),
    "struct": (one({"f": [0.5], "d": None}, TREE), '{"f": [0.5], "d": null}', {"f": [0.5], "d": None}),
    "empty struct": (one({}, pa.struct([])), "{}", {}),
    "names twice": (pa.StructArray.from_arrays([one(1, pa.int8()), one("x", pa.string())], names=["a", "a"]),
                    '{"a": 1, "a.1": "x"}', {"a": 1, "a.1": "x"}),
    "map": (one([("a", 1), ("b", None)], pa.map_(pa.string(), pa.int8())),
            '[["a", 1], ["b", null]]', [["a", 1], ["b", None]]),
    "dictionary": (one("x", pa.string()).dictionary_encode(), "x", "x"),
    "runs": (pc.run_end_encode(one("x", pa.string())), "x", "x"),
    "union": (pa.UnionArray.from_sparse(pa.array([1], pa.int8()), [one(1, pa.int8()), one("x", pa.string())]),
              "x", "x"),
    "dense union": (pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([1], pa.int32()),
                                             [pa.array([1, 2]), one("x", pa.string())]), "2", 2),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_every_arrow_type_has_a_form_in_text(tmp_path, case):
    array, text, value = FORMS[case]
    columns = {"a": pa.chunked_array([array, array]), "b": ["1", "2"]}
    assert csv_rows(write(tmp_path, ".csv", columns))[1:] == [[text, "1"], [text, "2"]]
    assert write(tmp_path, ".tsv", columns).read_text("utf-8") == f"a\tb\n{text}\t1\n{text}\t2\n"
    assert records(write(tmp_path, ".jsonl", columns)) == [{"a": value, "b": "1"}, {"a": value, "b": "2"}]


KEPT = [
    pa.int8(), pa.uint64(), pa.float16(), pa.decimal128(5, 2), pa.decimal256(60, 2), pa.large_string(),
    pa.string_view(), pa.binary(3), pa.time64("ns"), pa.timestamp("us", "Mars/Olympus"), pa.duration("s"),
    pa.dictionary(pa.int8(), pa.string()), pa.uuid(), pa.json_(), pa.map_(pa.string(), pa.int8()), TWICE,
    pa.list_(pa.field("thing", pa.int8(), nullable=False)), pa.list_(pa.int8(), 2), pa.large_list(pa.bool_()),
    pa.struct([pa.field("a", pa.list_(pa.timestamp("ns")))]), pa.null(),
]  # fmt: skip


@pytest.mark.parametrize("arrow_type", KEPT, ids=str)
def test_parquet_keeps_a_type_through_parts_and_joining(tmp_path, arrow_type):
    check_holds({"a": arrow_type}, ".parquet", "given")
    parts = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    for part in parts:
        write_table(Table({"a": pa.nulls(2, arrow_type)}, "given"), part, {"a": arrow_type})
    join_parts(parts, tmp_path / "all.parquet", columns=["a"])
    assert pq.read_table(tmp_path / "all.parquet")["a"].type == arrow_type


REFUSED = [
    pa.struct([]), pa.list_(pa.struct([])), pa.month_day_nano_interval(), pa.decimal128(5, -2),
    pa.sparse_union([pa.field("a", pa.int8())]), pa.run_end_encoded(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.list_(pa.int8())), pa.list_(pa.dictionary(pa.int8(), pa.decimal128(5, 2))),
    pa.dictionary(pa.int8(), pa.dictionary(pa.int8(), pa.string())),
]  # fmt: skip


@pytest.mark.parametrize("arrow_type", REFUSED, ids=str)
def test_a_type_that_parquet_cannot_hold_is_refused_by_column_type_and_remedy(arrow_type):
    types = {"fine": "json", "odd": arrow_type}
    for suffix in TEXT_FORMATS:
        check_holds(types, suffix, "in.parquet")
    with pytest.raises(DataError, match=r"^in\.parquet: .*column 'odd'.*Write jsonl") as caught:
        check_holds(types, ".parquet", "in.parquet")
    assert str(arrow_type)[:100] in str(caught.value) and len(str(caught.value)) < 600


def test_a_far_second_that_parquet_cannot_hold_is_refused_by_column(tmp_path):
    column = viewed([0, LOWEST], pa.timestamp("s"))
    with pytest.raises(DataError, match=r"given: .*column 'when' of type timestamp\[s\].*Write jsonl"):
        write(tmp_path, ".parquet", {"fine": [1, 2], "when": column})
    assert list(tmp_path.iterdir()) == []


def test_null_among_the_values_of_a_dictionary(tmp_path):
    column = pa.DictionaryArray.from_arrays([0, 1, None], pa.array([None, "a"]))
    back = pq.read_table(write(tmp_path, ".parquet", {"a": column}))["a"]
    assert (back.type, back.to_pylist()) == (column.type, [None, "a", None])


@pytest.mark.parametrize(
    "values",
    [
        one(1, pa.int8()),
        one(1, pa.duration("s")),
        one(True, pa.bool_()),
        pa.array([1]).cast(pa.decimal128(21, 2)),
    ],
    ids=lambda values: str(values.type),
)
def test_a_dictionary_of_other_values_than_texts_becomes_its_values(tmp_path, values):
    column = pa.DictionaryArray.from_arrays([0, None], values)
    back = pq.read_table(write(tmp_path, ".parquet", {"a": column}, {"a": column.type}))["a"]
    assert (back.type, python_cells(back)) == (values.type, python_cells(column))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"a", b"caf\xe9", None]).view(pa.string()),
        pa.DictionaryArray.from_arrays([0, 1, None], pa.array([b"a", b"caf\xe9"]).view(pa.string())),
    ],
    ids=["string", "dictionary"],
)
def test_texts_of_parquet_are_utf8(tmp_path, column):
    back = pq.read_table(write(tmp_path, ".parquet", {"a": column}))["a"]
    assert (back.type, back.to_pylist()) == (column.type, ["a", r"caf\xe9", None])


def test_slices_of_views_are_written(tmp_path):
    column = pa.array([{"a": "x"}, {"a": "y"}, None], pa.struct([("a", pa.string_view())])).slice(1)
    assert pq.read_table(write(tmp_path, ".parquet", {"v": column}))["v"].to_pylist() == [{"a": "y"}, None]


@pytest.mark.parametrize("rows", [[], [0], [3], [0, 2], [1, 2, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("case", FORMS)
def test_rows_of_every_type_are_taken(case, rows):
    whole = pa.concat_arrays([FORMS[case][0]] * 2)
    column = pa.chunked_array([whole, whole])
    taken = take_rows(column, rows)
    assert repr(python_cells(taken)) == repr([python_cells(column)[row] for row in rows])
    assert taken.type == column.type and len(taken) == len(rows)


# ---- cells of csv and jsonl

WORDS = ["a", 'b "c"', None, MISSING, "caf\udce9", "cut \ud83d", "x\ty\r\n", "\ufeffmark"]
MIXED = [
    "a",
    True,
    7,
    None,
    MISSING,
    Json("1.50"),
    Json("[1, NaN,\n-Infinity]"),
    Json('{"NaN": "cut \\ud83d"}'),
]


def test_text_cells_in_every_format(tmp_path):
    columns = {"w": WORDS, "n": list(range(8))}
    found = [row[0] for row in csv_rows(write(tmp_path, ".csv", columns))]
    assert found == ["w", "a", 'b "c"', "", "", "caf\udce9", r"cut \ud83d", "x\ty\r\n", "\ufeffmark"]
    lines = write(tmp_path, ".tsv", columns).read_text("utf-8", "surrogateescape").split("\n")
    assert lines[1:7] == ["a\t0", 'b "c"\t1', "\t2", "\t3", "caf\udce9\t4", "cut \\ud83d\t5"]
    assert lines[7:] == ["x\\ty\\r\\n\t6", "\ufeffmark\t7", ""]
    plain = ["a", 'b "c"', None, None, r"caf\xe9", r"cut \ud83d", "x\ty\r\n", "\ufeffmark"]
    rows = [{"w": word, "n": n} for n, word in enumerate(plain)]
    del rows[3]["w"]
    assert records(write(tmp_path, ".jsonl", columns)) == rows
    back = pq.read_table(write(tmp_path, ".parquet", columns, {"w": "string", "n": "integer"}))
    assert back.to_pydict() == {"w": plain, "n": list(range(8))}


def test_values_of_json_in_every_format(tmp_path):
    columns = {"v": MIXED, "n": ["x"] * 8}
    nested, cut = '[1, null, "-Infinity"]', r'{"NaN": "cut \\ud83d"}'
    texts = [row[0] for row in csv_rows(write(tmp_path, ".csv", columns))]
    assert texts == ["v", "a", "true", "7", "", "", "1.50", nested, cut]
    lines = write(tmp_path, ".jsonl", columns).read_text("utf-8").splitlines()
    wanted = ['"a"', "true", "7", "null", None, "1.50", nested, cut]
    assert lines == [f'{{"v": {w}, "n": "x"}}' if w else '{"n": "x"}' for w in wanted]
    back = pq.read_table(write(tmp_path, ".parquet", columns, {"v": "json", "n": "string"}))["v"]
    assert back.to_pylist() == ['"a"', "true", "7", None, None, "1.50", nested, cut]


@pytest.mark.parametrize(
    ("token", "value"), [("NaN", None), ("Infinity", "Infinity"), ("-Infinity", "-Infinity")]
)
@pytest.mark.parametrize("made", [Json, float])
def test_a_bare_number_that_json_does_not_know(tmp_path, token, value, made):
    columns = {"v": [made(token), Json("0.5")]}
    assert csv_rows(write(tmp_path, ".csv", columns)) == [["v"], [token], ["0.5"]]
    assert records(write(tmp_path, ".jsonl", columns)) == [{"v": value}, {"v": 0.5}]
    back = pq.read_table(write(tmp_path, ".parquet", columns, {"v": "number"}))["v"].to_pylist()
    assert repr(back) == repr([float(token), 0.5])


@pytest.mark.parametrize(
    ("kind", "cells", "values"),
    [
        ("string", ["", None, MISSING], ["", None, None]),
        ("boolean", [True, False, None], [True, False, None]),
        ("integer", [1, Json(str(LOWEST)), None], [1, LOWEST, None]),
        ("number", [1, Json("2.5e3"), MISSING], [1.0, 2500.0, None]),
        ("json", [1, Json("9" * 5000), None], ["1", "9" * 5000, None]),
    ],
)
@pytest.mark.parametrize("absent", [False, True])
def test_a_settled_kind_gives_one_schema_also_without_values(tmp_path, kind, cells, values, absent):
    arrow = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64()}.get(kind, pa.string())
    cells, values = ([MISSING, None], [None, None]) if absent else (cells, values)
    back = pq.read_table(write(tmp_path, ".parquet", {"v": cells}, {"v": kind}))["v"]
    assert (back.type, back.to_pylist()) == (arrow, values)


# ---- names


def test_names_are_escaped_and_stay_apart(tmp_path):
    columns = {"caf\udce9": ["1"], r"caf\xe9": ["2"], "cut \ud83d": ["3"], "a;b": ["4"], "a\tb": ["5"]}
    apart = [r"caf\xe9", r"caf\xe9.1", r"cut \ud83d", "a;b"]
    assert list(records(write(tmp_path, ".jsonl", columns))[0]) == [*apart, "a\tb"]
    types = dict.fromkeys(columns, "string")
    assert pq.read_schema(write(tmp_path, ".parquet", columns, types)).names == [*apart, "a\tb"]
    path = write(tmp_path, ".csv", columns)
    assert csv_rows(path)[0] == ["caf\udce9", r"caf\xe9", r"cut \ud83d", "a;b", "a\tb"]
    assert path.read_bytes().startswith(b'caf\xe9,caf\\xe9,cut \\ud83d,"a;b","a\tb"\n')
    header = write(tmp_path, ".tsv", columns).read_bytes().split(b"\n")[0]
    assert header.split(b"\t") == [b"caf\xe9", rb"caf\xe9", rb"cut \ud83d", b"a;b", rb"a\tb"]


# ---- types of several files


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("integer", "integer", "integer"),
        ("integer", "number", "number"),
        ("boolean", "integer", "json"),
        ("string", "number", "json"),
        ("json", "string", "json"),
        ("string", pa.string(), pa.string()),
        ("string", pa.large_string(), pa.large_string()),
        ("string", pa.int64(), None),
        ("integer", pa.int32(), pa.int64()),
        ("integer", "long", "long"),
        ("null", "number", "number"),
        ("null", pa.int8(), pa.int8()),
        ("long", "number", "json"),
        ("long", pa.int32(), pa.int64()),
        ("long", pa.float64(), None),
        ("number", pa.float32(), pa.float64()),
        ("json", pa.string(), None),
        ("json", pa.null(), "json"),
        (pa.null(), pa.date32(), pa.date32()),
        (pa.null(), pa.timestamp("ns"), pa.timestamp("ns")),
        (pa.time64("us"), pa.time64("ns"), pa.time64("ns")),
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.int64(), pa.uint64(), None),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("ns"), None),
        (pa.timestamp("us", "UTC"), pa.timestamp("us"), None),
        (pa.decimal128(5, 2), pa.decimal128(9, 4), pa.decimal128(9, 4)),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), None),
        (
            pa.struct([("a", pa.int8())]),
            pa.struct([("b", pa.int8())]),
            pa.struct([("a", pa.int8()), ("b", pa.int8())]),
        ),
    ],
)
def test_the_common_type_of_two_files(one, other, common):
    assert unify_types(one, other) == common


@pytest.mark.parametrize(
    ("column", "to", "values"),
    [
        ([1, None], pa.int32(), [1, None]),
        (["a", MISSING], pa.large_string(), ["a", None]),
        ([None, MISSING], pa.list_(pa.int8()), [None, None]),
        ([Json("0.5"), 1], pa.float64(), [0.5, 1.0]),
        (pa.array([2**60 + 1]), pa.float64(), [float(2**60)]),
        (pa.array([1], pa.int8()), "number", [1.0]),
        (pa.nulls(1), "json", [None]),
        (pa.array([{"a": 1}]), pa.struct([("a", pa.int64()), ("b", pa.int8())]), [{"a": 1, "b": None}]),
    ],
)
def test_a_column_is_written_in_the_type_that_was_settled(tmp_path, column, to, values):
    back = pq.read_table(write(tmp_path, ".parquet", {"v": column}, {"v": to}))["v"]
    assert back.to_pylist() == values and (isinstance(to, str) or back.type == to)
