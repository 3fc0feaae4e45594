"""JSON lines, arrays and objects that hold one: values as they are spelled, faults by row."""

from __future__ import annotations

import gzip
import io
import json

import pandas as pd
import pytest

from cascadebert.data import json_forms, readers
from cascadebert.data.columns import ColumnNames, Columns
from cascadebert.data.json_forms import raw_rows
from cascadebert.data.readers import read_chunks, read_layout, read_rows, read_table
from cascadebert.data.streams import _guess_format
from cascadebert.data.table import Json, describe_fault
from cascadebert.errors import DataError
from file_samples import CSV, faults, put


def test_values_of_json_are_kept_as_they_are_spelled(tmp_path):
    line = '{"text": "a", "n": 1.50, "big": 123456789012345678901, "o": {"a": 1e400, "b": NaN, "a": 2}}'
    (chunk,) = read_chunks(read_layout(put(tmp_path, "a.jsonl", f"{line}\n")))
    columns = {name: cells[0] for name, cells in chunk.table.columns.items()}
    assert columns["n"] == Json("1.50") and columns["big"] == 123456789012345678901
    assert columns["o"] == Json('{"a": 1e400, "b": NaN, "a": 2}')


def test_numbers_of_thousands_of_digits_are_no_fault(tmp_path):
    path = put(tmp_path, "a.jsonl", '{"text": "a", "n": ' + "9" * 5000 + "}\n")
    assert faults(path) == [] and read_table(path).columns["n"] == ["9" * 5000]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2"], "integer"),
        (["1", "2.5", "null"], "number"),
        (["true", "null"], "boolean"),
        (['"a"', "null"], "string"),
        (["null"], "null"),
        (["1", '"a"'], "json"),
        (["true", "1"], "json"),
        (["1e400"], "json"),
        ([str(2**63)], "json"),
        ([str(2**63 - 1)], "long"),
        (["0.5", "Infinity", "-Infinity", "NaN"], "number"),
        (["0.5", "1e999"], "json"),
        (["1", str(2**53 + 1)], "long"),
        ([str(-(2**63)), "0"], "long"),
        ([str(-(2**63) - 1), "0"], "json"),
        (["0.5", str(2**53)], "number"),
        (["0.5", str(2**53 + 1)], "json"),
        (["0.5", str(2**62)], "json"),
        (["[1]"], "json"),
        (["{}"], "json"),
    ],
)
def test_the_kind_of_a_column_is_settled_over_all_rows(tmp_path, values, kind):
    lines = "".join(f'{{"text": "a", "v": {value}}}\n' for value in values)
    assert read_layout(put(tmp_path, "a.jsonl", lines)).files[0].types["v"] == kind


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"text": "b"', "not JSON"),
        ("text,label", "not JSON"),
        ('{"text": "b"} {}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "expected an object"),
        ('"text"', "expected an object"),
        ("null", "expected an object"),
        ('{"text": "a", "text": "b"}', "names a key twice"),
    ],
)
def test_a_broken_json_line_is_named_and_spoils_no_other(tmp_path, line, fault):
    path = put(tmp_path, "a.jsonl", f'{{"text": "a"}}\n\n{line}\n{{"text": "c"}}\n')
    assert faults(path) == [(2, 3)]
    with pytest.raises(DataError, match=rf"a\.jsonl, row 2: .*{fault}.* \(line 3 of the file\)"):
        read_table(path)


def test_items_that_are_no_objects_spoil_no_others(tmp_path):
    path = put(tmp_path, "a.json", '[{"text": "a"},\n 3, {"a": 1, "a": 2}, ["b"],\n {"text": "b"}]')
    assert faults(path) == [(2, 2), (3, 2), (4, 2)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"text": "a"},\n 3, {"x" }, {"text": "c"}]', "breaks off at line 2, row 3 (Expecting ':'"),
        ('[{"text": "a"}', "breaks off at line 1, row 2"),
        ('[{"text": "a"},\n', "breaks off at line 2, row 2"),
        ('[{"text": "a"},\n{"text": "b', "breaks off at line 2, row 2 (Unterminated string"),
        ('[{"text": "a"}, {"text": "b" "c"}' + " " * 200_000, "breaks off at line 1, row 2"),
        ('[{"text": "a"}, ' + "[" * 100_000 + "]", "breaks off at line 1, row 2 (nested too deeply)"),
        ('{"data": [{"text": "a"},\n{"text"', "breaks off at line 2, row 2"),
        ('[{"text": "a"}]\n{"text": "b"}', "more follows the array in line 2"),
        ('[{"text": "a"}]\n\n[{"text": "b"}]', "more follows the array in line 3"),
        ('[{"text": "a"}]\n]', "more follows the array in line 2"),
        ('{"data": [\n{"text": "a"}]}\n{"text": "b"}', "more follows the array in line 3"),
        ('{"data": [{"text": "a"}], "data": []}', "more follows the array in line 1 (the key 'data' twice)"),
    ],
)
def test_an_array_that_breaks_off_is_refused(tmp_path, content, said):
    with pytest.raises(DataError) as caught:
        read_layout(put(tmp_path, "a.json", content))
    assert str(caught.value).startswith("a.json: ") and said in str(caught.value)
    assert str(caught.value).endswith("; the rest cannot be read. Mend it, or write JSON lines.")


@pytest.mark.parametrize(
    ("content", "ends"),
    [
        ('[{"text": "a b"},, {"text": "c"}]', False),
        ('[{"text": "a b"}, {"text" "c"}]', False),
        ('[{"text": "a"}, {"text": "b"', True),
        ('[{"text": "a"}, {"text": "b\n', True),
        ('[{"text": "a"}, {"text": tru\n', True),
        ('[{"text": "a"},\n', True),
    ],
)
def test_a_file_is_said_to_end_only_where_it_does(tmp_path, content, ends):
    with pytest.raises(DataError, match="breaks off") as caught:
        read_layout(put(tmp_path, "a.json", content))
    assert ("and the file ends" in str(caught.value)) == ends


@pytest.mark.parametrize(
    "content",
    [
        '{"data": [{"x": 1}], "body": "a b"}',
        '{"body": "a b", "data": []}',
        '{"BODY": "a b", "tags": [{"n": 1}]}',
    ],
)
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("columns", [Columns("body"), Columns(remembered=ColumnNames(text=("body",)))])
def test_one_object_with_a_named_text_is_a_row(tmp_path, content, keep, columns):
    layout = read_layout(put(tmp_path, "a.json", content), columns, keep=keep)
    (name,) = layout.find_text_columns(columns)
    assert [chunk.table.cells(name) for chunk in read_chunks(layout)] == [["a b"]]


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_one_object_of_one_line_is_not_over_several(tmp_path, end):
    content = '{"review": "great", "tags": [{"n": 1}]}'
    with pytest.raises(DataError, match="found one object with the keys"):
        read_layout(put(tmp_path, "a.json", content + end))
    with pytest.raises(DataError, match="one object over several lines"):
        read_layout(put(tmp_path, "a.json", content.replace(" ", "\n") + end))


@pytest.mark.parametrize(
    ("content", "format_"),
    [
        ("[Verse 1]\nlove me do\n", "txt"),
        ("[1] See above\nwords\n", "txt"),
        ("[ ] buy milk\n[x] sleep\n", "txt"),
        ("{name}: hello\nyou\n", "txt"),
        ("[text],label\na,b\n", "csv"),
        (' [\n {"text": "a"}]', "json"),
        ('{ "text": "a"}\n', "json"),
        ('{"a\\"b": "a", "text', "json"),
        ('["a", "b"]', "json"),
        ("{\n", "json"),
        ("[]\n", "json"),
        ("{}\n{}\n", "json"),
    ],
)
def test_json_of_a_stream_is_told_by_its_first_value(tmp_path, content, format_):
    path = put(tmp_path, "stream", content)
    assert _guess_format(path, Columns()) == (format_, "")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("not JSON", "row 2: not JSON (line 3 of the file)"),
        ("a mark. Close it.", "row 2: a mark (line 3 of the file). Close it"),
        ("column 'a': no label 'Mr. X'", "row 2, column 'a': no label 'Mr. X' (line 3 of the file)"),
    ],
)
def test_the_line_of_a_fault_stands_before_the_advice(fault, told):
    assert describe_fault("a.csv", 2, 3, fault) == f"a.csv, {told}"


def test_a_fault_is_found_without_reading_what_follows(tmp_path):
    text = io.StringIO('[{"text": "a"}, {"text" "b"}' + ", {}" * 1_000_000)
    with pytest.raises(DataError, match="breaks off at line 1, row 2"):
        list(raw_rows(text, "a.json"))
    assert text.tell() < 200_000


@pytest.mark.parametrize("size", [1, 2, 3, 5, 50])
def test_values_may_lie_across_blocks(tmp_path, monkeypatch, size):
    monkeypatch.setattr(json_forms, "_BLOCK", size)
    content = (
        '[ {"text": "\\ud83c\\udfac\\n", "a": [true, null, -Infinity, 1.5e-3]},\n -12345, {"text": "\\""} ]\n'
    )
    path = put(tmp_path, "a.json", content)
    (chunk,) = read_chunks(read_layout(path))
    assert chunk.table.columns["text"] == ["\U0001f3ac\n", '"'] and chunk.bad[0].row == 2
    assert chunk.table.columns["a"][0] == "[true, null, -Infinity, 1.5e-3]"
    path = put(tmp_path, "b.json", f'{{"version": 12, "data": {content}, "more": {{"a": 1}}}}')
    assert read_layout(path).rows == 3


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('{"data": [{"text": "in"}], "text": "a"}\n{"data": [{"text": "in"}], "text": "b"}\n', ["a", "b"]),
        ('{"data": [{"text": "in"}], "text": "a"}\n', ["a"]),
        ('{"data": [{"text": "in"}], "Question1": "q", "text": "a"}', ["a"]),
        ('{"data": [], "text": "' + "x" * 100_000 + '"}\n\n{"text": "b"}', ["x" * 100_000, "b"]),
        ('{"data": [{"text": "in"}]}\n\n', ["in"]),
        ('{"version": "1.0", "data": [{"text": "in"}]}', ["in"]),
        ('{"data": [{"text": "in"}, {"text": "b"}], "tags": []}', ["in", "b"]),
        ('{"name": "a set of data", "info": {"a": [1]}, "data": [\n{"text": "in"}\n], "n": 1}', ["in"]),
        ('{"schema": {"fields": []}, "data": [{"index": 0, "text": "in"}]}', ["in"]),
        ('{"info": "' + "x" * 100_000 + '",\n"data": [{"text": "in"}]}', ["in"]),
        ('{"text": "a", "tokens": [{"from": 0}]}', ["a"]),
    ],
)
def test_rows_in_data_are_told_from_rows_with_data(tmp_path, content, texts):
    assert read_table(put(tmp_path, "a.json", content)).columns["text"] == texts


def test_a_row_may_name_its_text_as_it_likes(tmp_path):
    path = put(tmp_path, "a.jsonl", '{"body": "a film", "tokens": [{"from": 0}]}')
    assert read_table(path).columns["body"] == ["a film"]


@pytest.mark.parametrize("content", ['{"data": []}', '{"version": 1, "data": []}', '{"data": [\n]}'])
def test_an_object_without_rows_is_empty(tmp_path, content):
    with pytest.raises(DataError, match=r"a\.json is empty"):
        read_layout(put(tmp_path, "a.json", content))


def test_items_of_data_that_are_no_objects_are_bad_rows(tmp_path):
    assert faults(put(tmp_path, "a.json", '{"n": "a b", "data": [{"text": "a"}, 3]}')) == [(2, 1)]


def test_a_key_that_is_too_long_to_look_at_is_one_of_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(json_forms, "_BLOCK", 16)
    monkeypatch.setattr(json_forms, "_MOST", 32)
    long = "k" * 100
    assert list(read_table(put(tmp_path, "a.json", f'{{"{long}": 1}}')).columns) == [long]


def test_an_object_may_hold_more_than_its_data(tmp_path):
    path = put(tmp_path, "a.json", '{"data": [{"text": "a"}],\n "version": {"n": 1}}\n')
    assert read_table(path).columns == {"text": ["a"]}


FRAME = pd.DataFrame({"text": ["a", "b"] * 2000, "label": [0, 1] * 2000})


@pytest.mark.parametrize("rows", [2, 4000])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("orient", ["columns", "index", "split", "values", "list", "rows", "train"])
def test_json_of_another_form_is_told_how_to_write_it(tmp_path, orient, rows, indent):
    frame = FRAME[:rows]
    if orient in ("columns", "index", "split", "values"):
        content = frame.to_json(orient=orient, indent=indent)
    else:
        records = frame.to_dict("records")
        values = {
            "list": frame.to_dict("list"),
            "rows": {"version": "1.0", "rows": records},
            "train": {"train": records},
        }
        content = json.dumps(values[orient], indent=indent)
    with pytest.raises(DataError, match=r"expected one object per line, an array of objects or") as caught:
        read_layout(put(tmp_path, "a.json", content))
    assert str(caught.value).endswith("With pandas, write it with to_json(orient='records', lines=True).")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("orient", ["records", "table"])
def test_json_of_pandas_with_an_array_of_rows_is_read(tmp_path, orient, indent):
    path = put(tmp_path, "a.json", FRAME.to_json(orient=orient, indent=indent))
    assert read_table(path).columns["text"] == list(FRAME["text"])


@pytest.mark.parametrize(
    "content", ['{\n "text": "a"\n}\n', '{\n "text": "a"\n}\n{\n "text": "b"\n}\n', '["a", "b"]']
)
def test_json_over_several_lines_or_of_texts_alone_is_refused(tmp_path, content):
    with pytest.raises(DataError, match=r"expected one object per line, an array of objects or"):
        read_layout(put(tmp_path, "a.json", content))


def test_values_that_are_too_long_to_look_at_are_still_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(json_forms, "_BLOCK", 16)
    monkeypatch.setattr(json_forms, "_MOST", 32)
    long = json.dumps(list(range(100)))
    with pytest.raises(DataError, match=r"found one object with the keys text\. With pandas"):
        read_layout(put(tmp_path, "a.json", f'{{"text": {long}}}'))
    lines = f'{{"text": "a {long}"}}\n{{"text": "b"}}\n'
    assert read_table(put(tmp_path, "a.json", lines)).columns["text"] == [f"a {long}", "b"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_lines_that_end_in_commas_say_so(tmp_path, name):
    content = b'{"text": "a"},\n{"text": "b"},\n'
    path = put(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(
        DataError, match=r"row 1: .*comma at the end of the line: JSON lines have none"
    ) as caught:
        read_layout(path)
    assert str(caught.value).endswith(f"No row of {name} can be read, so it has no known column.")


@pytest.mark.parametrize("name", ["a.jsonl", "lang=de/a.jsonl"])
def test_rows_that_are_kept_are_those_that_a_second_reading_gives(tmp_path, name):
    lines = '{"id": 1, "Text": "a", "label": 0}\n{}\n{"id": 2}\n{"x": 3, "label": 1, "Text": "b"}\n'
    put(tmp_path, f"in/{name}", lines)
    again, kept = (read_layout(tmp_path / "in", keep=keep) for keep in (False, True))
    assert kept.names == again.names and kept.rows == again.rows == 4
    assert all("id" not in chunk.table.columns for chunk in read_chunks(kept))
    wanted = ["text", "label"]
    assert read_rows(kept, wanted) == read_rows(again, wanted)
    assert read_rows(kept, wanted).columns == {"text": ["a", None, None, "b"], "label": [0, None, None, 1]}


def test_a_chunk_of_empty_objects_loses_no_row(tmp_path):
    layout = read_layout(put(tmp_path, "a.jsonl", '{"text": "a"}\n{}\n'))
    assert [len(chunk.table) for chunk in read_chunks(layout, rows=1)] == [1, 1]
    assert read_rows(layout, ["text"]).columns == {"text": ["a", None]}


@pytest.mark.parametrize("end", ["csv", "jsonl"])
def test_a_chunk_of_many_columns_has_fewer_rows(tmp_path, monkeypatch, end):
    monkeypatch.setattr(readers, "CHUNK_CELLS", 40)
    monkeypatch.setattr(readers, "MIN_ROWS", 2)
    names = [f"c{i}" for i in range(10)]
    write = pd.DataFrame([range(10)] * 9, columns=names)
    content = write.to_csv(index=False) if end == "csv" else write.to_json(orient="records", lines=True)
    layout = read_layout(put(tmp_path, f"a.{end}", content))
    assert [len(chunk) for chunk in read_chunks(layout)] == [4, 4, 1]
    assert [len(chunk) for chunk in read_chunks(layout, rows=3)] == [3, 3, 3]


def test_lines_are_counted_once_and_only_if_needed(tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(readers, "count_lines", lambda file: counted.append(file) or 3)
    layout = read_layout(put(tmp_path, "a.csv.gz", gzip.compress(CSV.encode())))
    assert read_rows(layout, ["text"]).columns["text"] == ["one", "two"] and counted == []
    assert (layout.rows, layout.rows, len(counted)) == (3, 3, 1)
