"""Files as people have them: what is read, from where, and which rows are refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import threading
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascadebert.data import json_forms, readers
from cascadebert.data.arrow_cells import python_cells
from cascadebert.data.cells import check_texts
from cascadebert.data.columns import ColumnNames, Columns
from cascadebert.data.dataset import load_examples
from cascadebert.data.json_forms import raw_rows
from cascadebert.data.readers import read_chunks, read_layout, read_rows, read_table
from cascadebert.data.streams import _guess_format, copy_stream
from cascadebert.data.table import Json, describe_fault
from cascadebert.errors import DataError

ROWS = {"text": ["one", "two"], "label": ["yes", "no"]}
CSV = "text,label\none,yes\ntwo,no\n"


NOT_UTF8 = "bytes that are not UTF-8: save the file as UTF-8, or name its encoding with --encoding"


def put(folder: Path, name: str, content: str | bytes) -> Path:
    """A file with these bytes."""
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def faults(path: Path, columns: Columns | None = None) -> list[tuple[int, int | None]]:
    """Row and line of each bad row."""
    chunks = read_chunks(read_layout(path, columns))
    return [(fault.row, fault.line) for chunk in chunks for fault in chunk.bad]


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as target:
        target.write(content)
    return sink.getvalue().to_pybytes()


# ---- formats


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("rows.csv", ["text,label", "one,yes", "two,no"]),
        ("rows.csv", ['"text","label"', '"one","yes"', "", '"two","no"', ""]),
        ("rows.CSV", ["text;label", "one;yes", "two;no"]),
        ("rows.csv", ["text|label", "one|yes", "two|no"]),
        ("rows.csv", ["text\tlabel", "one\tyes", "two\tno"]),
        ("rows.csv", ["sep=;", "text;label", "one;yes", "two;no"]),
        ("rows.csv", ["text,label,,", "one,yes,,", "two,no,,", ",,,", ",,,"]),
        ("rows.csv", ["text,label", "one,yes,", "two,no"]),
        ("rows.csv", ["\ufeff\ufefftext,label", "one,yes", "two,no"]),
        ("rows.tsv", ["text\tlabel", "one\tyes", "two\tno"]),
        ("rows.jsonl", ['{"text": "one", "label": "yes"}', "", '{"label": "no", "text": "two"}']),
        ("rows.ndjson", ['\ufeff{"text": "one", "label": "yes"}', '{"label": "no", "text": "two"}']),
        ("rows.json", ['{"text": "one", "label": "yes"}', '{"label": "no", "text": "two"}']),
        ("rows.json", ['[{"text": "one", "label": "yes"},', '{"label": "no", "text": "two"}]']),
        ("rows.jsonl", ['[{"text": "one", "label": "yes"}, {"label": "no", "text": "two"}]']),
        (
            "rows.json",
            ["[", "{", '"text": "one",', '"label": "yes"},', '{"label": "no", "text": "two"}', "]"],
        ),
        ("rows.json", ['{"data": [{"text": "one", "label": "yes"}, {"label": "no", "text": "two"}]}']),
    ],
)
def test_every_form_of_text_file_gives_the_same_columns(tmp_path, name, lines, line_end):
    content = line_end.join(lines) + line_end
    assert read_table(put(tmp_path, name, content)).columns == ROWS
    assert read_table(put(tmp_path, f"{name}.gz", gzip.compress(content.encode()))).columns == ROWS
    assert read_table(put(tmp_path, f"{name}.zst", zstd(content.encode()))).columns == ROWS


def test_parquet_and_arrow_files_give_their_columns_in_order(tmp_path):
    pq.write_table(pa.table(ROWS), tmp_path / "rows.parquet")
    assert list(read_table(tmp_path / "rows.parquet").columns.items()) == list(ROWS.items())
    for new in (pa.ipc.new_stream, pa.ipc.new_file):
        with new(str(tmp_path / "rows.arrow"), pa.table(ROWS).schema) as target:
            target.write_table(pa.table(ROWS))
        assert read_table(tmp_path / "rows.arrow").columns == ROWS


def test_an_arrow_stream_that_breaks_off_is_refused(tmp_path):
    path = tmp_path / "a.arrow"
    with pa.ipc.new_stream(str(path), pa.schema([("text", pa.string())])) as target:
        for text in ("one", "two"):
            target.write_table(pa.table({"text": [text]}))
    whole = path.read_bytes()
    path.write_bytes(whole[: -8 - (len(whole) - 8) // 3])
    with pytest.raises(DataError, match=r"a\.arrow: not a readable Arrow file"):
        read_table(path)
    path.write_bytes(whole[:-8])  # at the end of a message
    with pytest.raises(DataError, match="it breaks off before its end"):
        read_table(path)


def test_each_line_of_a_txt_file_is_a_text(tmp_path):
    path = put(tmp_path, "a.txt", "\ufeffone, two\r\n\n  \nthree\n")
    assert read_table(path).columns == {"text": ["one, two", "three"]}
    (chunk,) = read_chunks(read_layout(path))
    assert (chunk.numbers, chunk.lines) == ([1, 2], [1, 4])


def test_a_long_array_is_read_in_pieces(tmp_path):
    rows = [{"text": f"text {i} " + "x" * (i % 7000)} for i in range(300)]
    table = read_table(put(tmp_path, "a.json", json.dumps(rows, indent=1)))
    assert table.columns["text"] == [row["text"] for row in rows]


# ---- csv


def test_a_delimiter_other_than_the_comma_is_reported_and_can_be_forced(tmp_path, caplog):
    caplog.set_level("INFO", "cascadebert")
    path = put(tmp_path, "a.csv", "text;label\none, really;yes\ntwo;no\n")
    assert read_table(path).columns["text"] == ["one, really", "two"]
    assert "a.csv: cells are separated by ';'" in caplog.text
    path = put(tmp_path, "b.csv", "text~label\none;yes~no\n")
    assert read_table(path, Columns(delimiter="~")).columns == {"text": ["one;yes"], "label": ["no"]}


@pytest.mark.parametrize("text", ["one; two", "one | two", "one\ttwo"])
def test_a_sign_in_the_texts_is_no_delimiter(tmp_path, text):
    rows = f'text,label\n"{text}",yes\n"{text}, {text}",no\n'
    assert read_table(put(tmp_path, "a.csv", rows)).columns["text"] == [text, f"{text}, {text}"]


def test_a_quoted_cell_may_hold_delimiters_quotes_and_line_breaks(tmp_path):
    table = read_table(put(tmp_path, "rows.csv", 'text,label\n"a, ""b""\nc",x\n'))
    assert table.columns["text"] == ['a, "b"\nc']


def test_a_lone_quotation_mark_in_tsv_is_text(tmp_path):
    table = read_table(put(tmp_path, "rows.tsv", 'text\tlabel\n"so he said\tx\na "b" c"\ty\n'))
    assert table.columns == {"text": ['"so he said', 'a "b" c"'], "label": ["x", "y"]}


def test_rows_without_content_are_kept_between_others_and_left_out_at_the_end(tmp_path):
    table = read_table(put(tmp_path, "a.csv", "text,label\na,x\n,\nb,y\n,\n,\n"))
    assert table.columns["text"] == ["a", "", "b"]


def test_a_column_without_a_name_before_others_is_kept(tmp_path):
    table = read_table(put(tmp_path, "a.csv", ",text\n0,a\n1,b\n"))
    assert table.columns == {"": ["0", "1"], "text": ["a", "b"]}


def test_a_repeated_name_gets_a_number(tmp_path):
    table = next(iter(read_chunks(read_layout(put(tmp_path, "a.csv", "text,n,n,n.1\na,1,2,3\n"))))).table
    assert table.columns == {"text": ["a"], "n": ["1"], "n.2": ["2"], "n.1": ["3"]}
    assert table.repeated == {"n"}


@pytest.mark.parametrize(
    ("content", "texts", "bad"),
    [
        ('a,"pos\nb,neg\nc,neg\n', ["b", "c"], [(1, 2)]),
        ('a,pos\n"b,neg\nc,neg', ["a", "c"], [(2, 3)]),
        ('a,pos\nb,"n"eg\nc,neg\n', ["a", "c"], [(2, 3)]),
        ('"a "quoted" b",pos\nb,neg\n', ["b"], [(1, 2)]),
        ("a,pos,more\nb\nc,neg\n", ["c"], [(1, 2), (2, 3)]),
        ('"a\nb\nc",pos\nd,e,f\n', ["a\nb\nc"], [(2, 5)]),
        ('a,pos\n\nb,"', ["a"], [(2, 4)]),
    ],
)
def test_a_broken_row_spoils_no_other(tmp_path, content, texts, bad):
    path = put(tmp_path, "a.csv", f"text,label\n{content}")
    (chunk,) = read_chunks(read_layout(path))
    assert (chunk.table.columns["text"], faults(path)) == (texts, bad)
    with pytest.raises(DataError, match=rf"a\.csv, row {bad[0][0]}: .*\(line {bad[0][1]} of the file\)"):
        read_table(path)


@pytest.mark.parametrize("content", ['"text,label\na,x\n', '"text"s,label\na,x\n', '"text,label\n"a",x\n'])
def test_a_misquoted_header_is_named(tmp_path, content):
    with pytest.raises(DataError, match=r"a\.csv, header: a (misplaced )?quotation mark"):
        read_layout(put(tmp_path, "a.csv", content))


def test_an_open_quotation_mark_takes_no_more_memory_than_its_limit(tmp_path):
    path = put(tmp_path, "a.csv", 'text,label\na,"pos\n' + "b,neg\n" * 30_000)
    chunks = list(read_chunks(read_layout(path)))
    assert sum(len(chunk.numbers) for chunk in chunks) == 30_000
    assert [fault.row for chunk in chunks for fault in chunk.bad] == [1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '"great film,pos\nok film,neg\nbad one",neg\nfine,pos\n',
            "row 1 holds 2 line breaks and looks like 3 rows.",
        ),
        ('fine,pos\n"great film,pos\nbad one",neg\n', "row 2 holds 1 line break and looks like 2 rows."),
        ('fine,"pos\ngood,pos\nbad,neg"\n', "row 1 holds 2 line breaks and looks like 3 rows."),
        ('"' + "a, b, c\n" * 60 + '",pos\n', "row 1 holds 60 line breaks and looks like 61 rows."),
        ('"a,pos\nb,neg\nc",pos\n' * 2, "looks like 3 rows, as does one more. It may be"),
        ('"' + "line\n" * 60 + '",pos\n', ""),
        ('"' + "a, b, c\n" * 40 + '",pos\n', ""),
        ('"Well, yes\nand no",pos\n', ""),
        ('"One paragraph.\n\nTwo, and more.\nThree",pos\n', ""),
    ],
)
def test_a_cell_that_swallowed_rows_is_reported(tmp_path, caplog, content, said):
    read_table(put(tmp_path, "a.csv", f"text,label\n{content}"))
    assert (said in caplog.text) and bool(said) == bool(caplog.text)


def test_cells_of_any_length_are_read(tmp_path):
    assert len(read_table(put(tmp_path, "a.csv", "text\n" + "x" * 1_000_000)).columns["text"][0]) == 1_000_000


# ---- json


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


# ---- encodings


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
def test_a_utf16_file_is_named_as_such_and_read_where_it_is_named(tmp_path, name, encoding):
    content = {"a.csv": CSV, "a.tsv": CSV.replace(",", "\t"), "a.txt": "one\ntwo\n"}.get(name)
    content = content or "".join(
        f"{json.dumps(dict(zip(ROWS, row, strict=True)))}\n" for row in zip(*ROWS.values(), strict=True)
    )
    path = put(tmp_path, name, content.encode(encoding))
    with pytest.raises(DataError, match=rf"{name} is UTF-16 or UTF-32\. Save it as UTF-8, or add --encoding"):
        read_table(path)
    assert read_table(path, Columns(encoding=encoding)).columns["text"] == ["one", "two"]


def test_another_encoding_is_read_where_it_is_named(tmp_path):
    path = put(tmp_path, "a.csv", "text,größe\ncafé,1\n".encode("latin-1"))
    assert read_table(path, Columns(encoding="latin-1")).columns == {"text": ["café"], "größe": ["1"]}
    assert read_table(path).columns["text"] == ["caf\udce9"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(CSV.encode()), r"a\.csv is compressed with gzip: its name must end in \.gz"),
        (zstd(CSV.encode()), r"compressed with zstd"),
        (b"PK\x03\x04...", r"a zip archive or a spreadsheet"),
        (b"PAR1...", r"is a parquet file"),
    ],
    ids=["gzip", "zstd", "zip", "parquet"],
)
def test_a_file_under_the_name_of_another_format_is_recognized(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        read_table(put(tmp_path, "a.csv", content))


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.csv", b"text\ncaf\xe9\n", NOT_UTF8),
        ("a.jsonl", b'{"text": "caf\\ud83c"}', "half of a surrogate pair"),
    ],
)
def test_a_text_that_is_not_utf8_says_what_to_do(tmp_path, name, content, fault):
    (chunk,) = read_chunks(read_layout(put(tmp_path, name, content)))
    assert check_texts(chunk.table, ["text"])[2] == {0: f"column 'text': {fault}"}


@pytest.mark.parametrize("encoding", [None, "utf-8", "UTF8", "utf-8-sig"])
def test_byte_order_marks_are_no_text_in_utf8_however_it_is_named(tmp_path, encoding):
    path = put(tmp_path, "a.csv", f"\ufeff\ufeff{CSV}")
    assert read_table(path, Columns(encoding=encoding)).columns == ROWS


@pytest.mark.parametrize(
    ("kind", "value"),
    [(pa.timestamp("us", "Mars/Phobos"), 0), (pa.timestamp("s"), 10**12), (pa.date32(), 2**31 - 1)],
)
def test_texts_of_arrow_that_python_cannot_hold_are_bad_rows(tmp_path, kind, value):
    raw = pa.array([b"caf\xe9", b"fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"text": text, "far": pa.array([value, None], kind)}), tmp_path / "a.parquet")
    (chunk,) = read_chunks(read_layout(tmp_path / "a.parquet"))
    assert check_texts(chunk.table, ["text"])[1:] == (
        [1],
        {0: f"column 'text': {NOT_UTF8}"},
    )
    far = check_texts(chunk.table, ["far"])[2]
    assert "expected text" in far[0] and far[1].endswith("empty text")


# ---- folders, patterns, streams


def test_the_files_of_a_folder_are_one_table_without_hidden_ones(tmp_path, caplog):
    caplog.set_level("INFO", "cascadebert")
    put(tmp_path, "in/b.csv", CSV)
    put(tmp_path, "in/a.jsonl", '{"text": "zero", "label": "no", "n": 1}\n')
    put(tmp_path, "in/deep/c.TXT", "three\n")
    for name in (
        "._b.csv",
        "_SUCCESS",
        ".b.csv.crc",
        "b.csv.crc",
        ".git/x.csv",
        "_delta_log/x.json",
        "read.md",
    ):
        put(tmp_path, f"in/{name}", "x")
    table = read_table(tmp_path / "in")
    assert table.columns["text"] == ["zero", "one", "two", "three"]
    assert table.columns["n"] == [1, None, None, None]
    assert "files of other formats are skipped: in/read.md" in caplog.text


def test_partitions_in_the_names_of_folders_are_columns(tmp_path):
    put(tmp_path, "in/lang=de/day=2024-01-02/a.csv", CSV)
    put(tmp_path, "in/lang=a%20b/day=__HIVE_DEFAULT_PARTITION__/a.csv", CSV)
    table = read_table(tmp_path / "in")
    assert table.columns["lang"] == ["a b", "a b", "de", "de"]
    assert table.columns["day"] == [None, None, "2024-01-02", "2024-01-02"]


def test_an_object_without_the_key_of_its_folder_has_the_folders_value(tmp_path):
    put(tmp_path, "in/y=1/a.jsonl", '{"text": "a"}\n{"text": "b", "y": "own"}\n')
    assert read_table(tmp_path / "in").columns["y"] == ["1", "own"]


def test_a_folder_of_save_to_disk_is_read_with_its_label_names(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    data = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [1, 0]}, features=features)
    data.save_to_disk(str(tmp_path / "one"), num_shards=2)
    assert read_table(tmp_path / "one").columns["text"] == ["one", "two"]
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert read_layout(tmp_path / "two", split="test").rows == 1
    with pytest.raises(DataError, match=r"choose one of its splits \(test, train\)"):
        read_layout(tmp_path / "two")


def test_a_pattern_gives_the_files_that_match_in_order(tmp_path):
    for name in ("b.csv", "a.csv", ".c.csv", "d.txt"):
        put(tmp_path, name, f"text\n{name}\n")
    assert read_table(tmp_path / "*.csv").columns["text"] == ["a.csv", "b.csv"]
    put(tmp_path, "odd[1].csv", "text\nodd\n")  # a file of such a name is no pattern
    assert read_table(tmp_path / "odd[1].csv").columns["text"] == ["odd"]


def test_a_pattern_finds_files_at_any_depth_and_folders_with_their_partitions(tmp_path):
    for name in ("a.csv", "x/b.csv", "x/y/c.csv", "x/_hidden.csv"):
        put(tmp_path, f"g/{name}", f"text\n{name}\n")
    assert read_table(tmp_path / "g/**/*.csv").columns["text"] == ["a.csv", "x/b.csv", "x/y/c.csv"]
    assert read_table(tmp_path / "g/x/_*.csv").columns["text"] == ["x/_hidden.csv"]
    for year in (2023, 2024):
        put(tmp_path, f"hive/year={year}/a.csv", "text\none\n")
    for pattern in ("hive/year=*/*.csv", "hive/year=*"):
        assert read_table(tmp_path / pattern).columns["year"] == ["2023", "2024"]
    with pytest.raises(DataError, match="no file matches this pattern"):
        read_table(tmp_path / "g/*.jsonl")


def test_a_pattern_reads_no_file_twice_and_skips_what_a_folder_skips(tmp_path, caplog):
    caplog.set_level("INFO", "cascadebert")
    put(tmp_path, "g/a.csv", "text\na\n")
    put(tmp_path, "g/sub/b.csv", "text\nb\n")
    put(tmp_path, "g/README.md", "x")
    for pattern in ("g/*", "g/**", "g/**/*"):
        assert read_table(tmp_path / pattern).columns["text"] == ["a", "b"], pattern
    assert "files of other formats are skipped: g/README.md" in caplog.text
    assert read_table(tmp_path / "g/**/sub").columns["text"] == ["b"]
    (tmp_path / "g/sub/loop").symlink_to(tmp_path / "g")
    with pytest.raises(DataError, match="loop is a link to a folder that it lies in"):
        read_table(tmp_path / "g/**/*.csv")


def test_a_saved_data_set_of_splits_keeps_its_list(tmp_path):
    data = datasets.Dataset.from_dict({"text": ["one", "two"]})
    folder = tmp_path / "in/year=2024/dd"
    datasets.DatasetDict({"train": data}).save_to_disk(str(folder))
    assert read_table(tmp_path / "in").columns["year"] == ["2024", "2024"]
    shutil.copy(folder / "train/data-00000-of-00001.arrow", folder / "train/cache-1.arrow")
    assert read_table(folder / "train/*.arrow").columns["text"] == ["one", "two"]
    assert read_table(folder / "train/*").columns["text"] == ["one", "two"]
    with pytest.raises(DataError, match="train has no splits: leave out '@test'"):
        read_table(Path(f"{folder / 'train'}@test"))
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "in/two"))
    with pytest.raises(DataError, match=r"two: choose one of its splits \(test, train\), such as .*two@test"):
        read_table(tmp_path / "in")
    shutil.rmtree(tmp_path / "in/two/test")
    with pytest.raises(DataError, match=r"two: its split test is missing\. Save the data set again"):
        read_table(Path(f"{tmp_path / 'in/two'}@test"))


def test_only_the_files_that_a_saved_data_set_lists_are_read(tmp_path):
    folder = tmp_path / "in/saved"
    datasets.Dataset.from_dict({"text": ["one", "two", "three"]}).save_to_disk(str(folder), num_shards=3)
    shutil.copy(folder / "data-00000-of-00003.arrow", folder / "cache-0123.arrow")
    put(tmp_path, "in/a.csv", "text\nzero\n")
    assert read_table(folder).columns["text"] == ["one", "two", "three"]
    assert read_table(tmp_path / "in").columns["text"] == ["zero", "one", "two", "three"]
    (folder / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(DataError, match=r"saved: its file data-00001-of-00003\.arrow is missing"):
        read_table(folder)


def test_nothing_in_a_folder_is_left_out_silently(tmp_path):
    put(tmp_path, "in/a.csv", "text\none\n")
    put(tmp_path, "elsewhere/b.csv", "text\ntwo\n")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    assert read_table(tmp_path / "in").columns["text"] == ["one", "two"]
    (tmp_path / "in/c.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"in/c\.csv is a broken link"):
        read_table(tmp_path / "in")
    (tmp_path / "in/c.csv").unlink()
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    with pytest.raises(DataError, match=r"loop is a link to a folder that it lies in"):
        read_table(tmp_path / "in")


def test_a_split_of_a_folder_is_chosen_by_name(tmp_path):
    put(tmp_path, "in/train.csv", "text\none\n")
    put(tmp_path, "in/test.csv", "text\ntwo\n")
    assert read_table(tmp_path / "in").columns["text"] == ["two", "one"]
    assert read_table(Path(f"{tmp_path / 'in'}@test")).columns["text"] == ["two"]
    with pytest.raises(DataError, match=r"no files of the split 'nope' \(found: test, train\)"):
        read_table(Path(f"{tmp_path / 'in'}@nope"))
    with pytest.raises(DataError, match=r"train\.csv is one file, which has no splits: leave out '@test'"):
        read_table(Path(f"{tmp_path / 'in/train.csv'}@test"))


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (CSV, ["one", "two"]),
        (gzip.compress(CSV.encode()).decode("latin-1"), ["one", "two"]),
        ("text;n\n", None),
        ("id;text\n1;one, two\n", ["one, two"]),
        ('{"text": "one"}\n', ["one"]),
        ('[{"text": "one"}]', ["one"]),
        ("one, two\nthree\n", ["one, two", "three"]),
    ],
)
def test_the_format_of_standard_input_is_told_by_its_first_lines(monkeypatch, content, texts):
    raw = content.encode("latin-1" if content.startswith("\x1f") else "utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    if texts is None:
        with pytest.raises(DataError, match="standard input is empty"):
            read_table(Path("-"))
        return
    assert read_table(Path("-")).columns["text"] == texts


@pytest.mark.parametrize("content", [gzip.compress(CSV.encode() * 99)[:60], b"\x28\xb5\x2f\xfdjunk"])
def test_a_stream_that_cannot_be_read_is_one_message_and_leaves_nothing(monkeypatch, tmp_path, content):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    with pytest.raises(DataError, match="standard input: cannot be read"):
        read_table(Path("-"))
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        read_table(Path("-"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["id,review,label\n1,good,x\n", "id;review\n1;good\n2;bad\n"])
def test_a_table_of_other_columns_is_never_taken_for_lines_of_text(monkeypatch, caplog, content):
    caplog.set_level("INFO", "cascadebert")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    with pytest.raises(DataError, match="standard input has no column 'text'"):
        load_examples("-", labels=False)
    assert "standard input is read as csv" in caplog.text


def test_a_named_column_makes_the_first_line_a_header(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"body,n\none,1\n")))
    assert read_table(Path("-"), Columns(("body",))).columns == {"body": ["one"], "n": ["1"]}


def test_a_pipe_is_read_once_and_its_copy_removed(tmp_path):
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(CSV,))
    writer.start()
    files = copy_stream(pipe, Columns())
    writer.join()
    copy = files.files[0].path
    assert copy.read_text() == CSV
    del files
    assert not copy.exists()


# ---- refusing


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(DataError, match=rf"gone\{suffix}: no such file or folder"):
        read_table(tmp_path / f"gone{suffix}")


def test_an_unknown_ending_lists_the_known_ones(tmp_path):
    with pytest.raises(
        DataError, match=r"rows\.xlsx: expected a file ending in \.csv, .*Save the sheet as CSV"
    ):
        read_table(put(tmp_path, "rows.xlsx", "PK"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", ""),
        ("a.csv", "\n\n"),
        ("a.tsv", ""),
        ("a.jsonl", " \n"),
        ("a.json", "[]"),
        ("a.csv", "text,label\n"),
        ("a.csv", "text,label\n,\n"),
        ("a.tsv", "text\tlabel"),
        ("a.jsonl", "{}\n"),
        ("a.txt", "\n"),
    ],
)
def test_a_file_without_rows_is_empty(tmp_path, name, content):
    with pytest.raises(DataError, match=rf"{name} is empty: expected a header and rows"):
        read_table(put(tmp_path, name, content))


def test_a_parquet_file_without_rows_is_empty(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet is empty"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("content", [b"", b"text,label\na,b\n", b"PAR1" * 20])
def test_a_damaged_parquet_file_is_rejected(tmp_path, content):
    with pytest.raises(DataError, match=r"a\.parquet: not a readable parquet file"):
        read_table(put(tmp_path, "a.parquet", content))


def test_a_time_zone_whose_name_is_damaged_spoils_no_time(tmp_path):
    table = pa.table({"text": ["a"], "when": pa.array([0], pa.timestamp("s", "Mars"))})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as target:
        target.write_table(table)
    path = put(tmp_path, "b.arrow", (tmp_path / "a.arrow").read_bytes().replace(b"Mars", b"M\xe4rs"))
    (chunk,) = read_chunks(read_layout(path))
    assert python_cells(chunk.table.columns["when"]) == ["1970-01-01T00:00:00Z"]


def test_an_arrow_file_that_points_outside_of_its_memory_is_rejected(tmp_path):
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), pa.schema([("text", pa.string())])) as target:
        target.write_batch(pa.record_batch([pa.array(["fine", "film"])], ["text"]))
    right, wrong = (
        pa.array(offsets, pa.int32()).buffers()[1].to_pybytes() for offsets in ([0, 4, 8], [0, 10**6, 8])
    )
    content = (tmp_path / "a.arrow").read_bytes()
    assert content.count(right) == 1
    (tmp_path / "a.arrow").write_bytes(content.replace(right, wrong))
    with pytest.raises(
        DataError, match=r"a\.arrow: not a readable Arrow file \(ArrowInvalid: .*out of bounds"
    ):
        read_table(tmp_path / "a.arrow")


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.zst"])
def test_a_damaged_compressed_file_is_rejected(tmp_path, name):
    whole = (gzip.compress if name.endswith("gz") else zstd)(CSV.encode() * 50)
    for content in (whole[:-9], whole[:5] + b"xx" + whole[7:-9], b"plain"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read"):
            read_table(put(tmp_path, name, content))


def test_a_folder_without_data_says_what_it_holds(tmp_path):
    put(tmp_path, "in/a.md", "x")
    with pytest.raises(DataError, match=r"a folder without data: .* It holds in/a\.md"):
        read_table(tmp_path / "in")
