"""Files in and out as plain cells: what is read, what is refused, and what comes back after writing."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadebert.data.files import FORMATS, read_table
from cascadebert.data.table import Table
from cascadebert.data.writers import write_table
from cascadebert.errors import DataError

NASTY = ("a", "é", "☃", '"', "'", ",", ";", " ", "\\", "\x85", "\u2028", "\udce9")
CELLS = {
    ".csv": st.text(st.sampled_from((*NASTY, "\t", "\n", "\r"))),
    ".tsv": st.text(st.sampled_from(NASTY)),
    ".jsonl": st.text(st.sampled_from((*NASTY, "\t", "\n", "\r", "\0"))) | st.none(),
    ".parquet": st.text(st.sampled_from((*NASTY[:-1], "\t", "\n", "\r", "\0"))) | st.none(),
}
ROWS = {"text": ["one", "two"], "label": ["yes", "no"]}


def put(folder: Path, name: str, content: str | bytes) -> Path:
    """A file with these bytes."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def written(folder: Path, columns: dict[str, list[object]], suffix: str) -> dict[str, list[object]]:
    """The columns after a trip through a file."""
    path = folder / f"out{suffix}"
    write_table(Table(columns, "given"), path)
    return dict(read_table(path).columns)


# ---- reading


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("rows.csv", ["text,label", "one,yes", "two,no"]),
        ("rows.csv", ['"text","label"', '"one","yes"', "", '"two","no"', ""]),
        ("rows.tsv", ["text\tlabel", "one\tyes", "two\tno"]),
        ("rows.jsonl", ['{"text": "one", "label": "yes"}', "", '{"label": "no", "text": "two"}']),
    ],
)
def test_text_formats_and_line_ends_give_the_same_columns(tmp_path, name, lines, line_end):
    table = read_table(put(tmp_path, name, line_end.join(lines) + line_end))
    assert table == Table(ROWS, name)


def test_a_parquet_file_gives_its_columns_in_order(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table(ROWS), tmp_path / "rows.parquet")
    table = read_table(tmp_path / "rows.parquet")
    assert (list(table.columns.items()), table.source) == (list(ROWS.items()), "rows.parquet")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    assert list(read_table(put(tmp_path, "rows.csv", "\ufefftext,label\na,b\n")).columns) == ["text", "label"]


def test_a_quoted_csv_cell_may_hold_commas_quotes_and_line_breaks(tmp_path):
    table = read_table(put(tmp_path, "rows.csv", 'text,label\n"a, ""b""\nc",x\n'))
    assert table.columns["text"] == ['a, "b"\nc']


def test_a_lone_quotation_mark_in_tsv_is_text(tmp_path):
    table = read_table(put(tmp_path, "rows.tsv", 'text\tlabel\n"so he said\tx\na "b" c"\ty\n'))
    assert table.columns == {"text": ['"so he said', 'a "b" c"'], "label": ["x", "y"]}


def test_a_key_that_a_json_line_lacks_is_an_empty_cell(tmp_path):
    table = read_table(put(tmp_path, "rows.jsonl", '{"text": "a"}\n{"text": "b", "label": 1}\n'))
    assert table.columns == {"text": ["a", "b"], "label": [None, 1]}


def test_cells_of_csv_are_strings_and_cells_of_jsonl_keep_their_type(tmp_path):
    assert read_table(put(tmp_path, "a.csv", "n\n007\n")).columns == {"n": ["007"]}
    assert read_table(put(tmp_path, "a.jsonl", '{"n": 7.5}\n')).columns == {"n": [7.5]}


def test_bytes_that_are_not_utf8_are_kept_as_lone_surrogates(tmp_path):
    assert read_table(put(tmp_path, "a.csv", b"text\ncaf\xe9\n")).columns == {"text": ["caf\udce9"]}


# ---- refusing


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(DataError, match=rf"gone\{suffix}: no such file"):
        read_table(tmp_path / f"gone{suffix}")


def test_an_unknown_ending_lists_the_known_ones(tmp_path):
    with pytest.raises(
        DataError, match=r"rows\.txt: expected a file ending in \.csv, \.tsv, \.jsonl, \.parquet"
    ):
        read_table(put(tmp_path, "rows.txt", "text,label\na,b\n"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", ""),
        ("a.csv", "\n\n"),
        ("a.tsv", ""),
        ("a.jsonl", " \n"),
        ("a.csv", "text,label\n"),
        ("a.tsv", "text\tlabel"),
        ("a.jsonl", "{}\n"),
    ],
)
def test_a_file_without_rows_is_empty(tmp_path, name, content):
    with pytest.raises(DataError, match=rf"{name} is empty: expected a header and rows"):
        read_table(put(tmp_path, name, content))


def test_a_parquet_file_without_rows_is_empty(tmp_path):
    pyarrow.parquet.write_table(
        pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match=r"a\.parquet is empty"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("content", [b"", b"text,label\na,b\n", b"PAR1" * 20])
def test_a_damaged_parquet_file_is_rejected(tmp_path, content):
    with pytest.raises(DataError, match=r"a\.parquet: not a readable parquet file"):
        read_table(put(tmp_path, "a.parquet", content))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_utf16_file_is_named_as_such(tmp_path, name, encoding):
    with pytest.raises(DataError, match=rf"{name} is UTF-16 or UTF-32\. Save it as UTF-8"):
        read_table(put(tmp_path, name, "\ufefftext,label\na,b\n".encode(encoding)))


@pytest.mark.parametrize("row", ["b", "b,1,2"])
def test_a_ragged_csv_row_is_named_with_the_columns_expected(tmp_path, row):
    fault = rf"a\.csv, row 2: {row.count(',') + 1} cells?, but the header names 2 columns \(text, label\)"
    with pytest.raises(DataError, match=fault):
        read_table(put(tmp_path, "a.csv", f"text,label\na,1\n{row}\n"))


def test_a_ragged_tsv_row_gets_no_advice_to_quote_as_tsv_has_no_quoting(tmp_path):
    with pytest.raises(DataError, match=r"a\.tsv, row 1: 3 cells") as caught:
        read_table(put(tmp_path, "a.tsv", "text\tlabel\na\tb\t1\n"))
    assert "Quote" not in str(caught.value)


def test_a_row_is_counted_without_the_line_breaks_inside_its_cells(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv, row 2: 3 cells"):
        read_table(put(tmp_path, "a.csv", 'text,label\n"a\nb\nc",1\nd,e,f\n'))


def test_an_unclosed_quotation_mark_never_swallows_the_rows_after_it(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv, row 1"):
        read_table(put(tmp_path, "a.csv", 'text,label\na,"pos\nb,neg\nc,neg\n'))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_header_that_names_a_column_twice_is_rejected(tmp_path, name):
    tab = "," if name == "a.csv" else "\t"
    with pytest.raises(DataError, match=rf"{name}: the header names a column twice: text, label, text"):
        read_table(put(tmp_path, name, tab.join(["text", "label", "text"]) + "\n" + tab.join("abc") + "\n"))


def test_a_parquet_file_with_a_column_twice_is_rejected_by_name(tmp_path):
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet.*text"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("line", ['{"text": "b"', "text,label", '{"text": "b"} {}', "[" * 100_000])
def test_a_broken_json_line_is_named(tmp_path, line):
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: not JSON"):
        read_table(put(tmp_path, "a.jsonl", f'{{"text": "a"}}\n{line}\n'))


@pytest.mark.parametrize("line", ["[1, 2]", '"text"', "null", "3"])
def test_a_json_line_that_is_no_object_is_named(tmp_path, line):
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: expected an object"):
        read_table(put(tmp_path, "a.jsonl", f'{{"text": "a"}}\n{line}\n'))


# ---- writing


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=60, deadline=None, database=None)
@given(data=st.data())
def test_what_is_written_is_read_again(suffix, data, tmp_path_factory):
    count = data.draw(st.integers(1, 4))
    column = st.lists(CELLS[suffix], min_size=count, max_size=count)
    columns = data.draw(st.fixed_dictionaries({"text": column, "other": column}))
    assert written(tmp_path_factory.mktemp("trip"), columns, suffix) == columns


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_single_column_keeps_its_empty_cells(tmp_path, suffix):
    columns = {"text": ["a", "", "b", ""]}
    assert written(tmp_path, columns, suffix) == columns


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_an_empty_cell_is_written_as_nothing_where_cells_are_strings(tmp_path, suffix):
    assert written(tmp_path, {"text": ["a"], "note": [None]}, suffix) == {"text": ["a"], "note": [""]}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_numbers_keep_their_type_where_the_format_has_types(tmp_path, suffix):
    columns = {"count": [1, 2], "share": [0.25, 1.0], "flag": [True, False]}
    back = written(tmp_path, columns, suffix)
    assert json.dumps(back) == json.dumps(columns)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b'text,note\nplain,caf\xe9\n"a, b",\xff\xfe\x80\n'),
        ("a.tsv", b"text\tnote\nplain\tcaf\xe9\n"),
        ("a.jsonl", b'{"text": "na\xc3\xafve", "note": "caf\xe9"}\n'),
    ],
)
def test_bytes_that_are_not_utf8_come_out_as_they_went_in(tmp_path, name, content):
    write_table(read_table(put(tmp_path, name, content)), tmp_path / f"b{name}")
    assert (tmp_path / f"b{name}").read_bytes() == content


def test_half_of_a_surrogate_pair_in_a_json_line_survives(tmp_path):
    path = put(tmp_path, "a.jsonl", '{"text": "a", "note": "cut \\ud83d"}\n')
    columns = read_table(path).columns
    assert written(tmp_path, dict(columns), ".jsonl") == columns


@pytest.mark.parametrize("cell", ["a\tb", "a\nb", "a\rb"])
def test_a_cell_that_tsv_cannot_carry_is_rejected(tmp_path, cell):
    with pytest.raises(DataError, match="tab or a line break"):
        write_table(Table({"text": [cell], "label": ["x"]}, "given"), tmp_path / "a.tsv")


@pytest.mark.parametrize(
    ("suffix", "cells"),
    [
        (".jsonl", [b"bytes", b"more"]),
        (".jsonl", [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]),
        (".parquet", [1, "mixed"]),
        (".csv", ["cut \ud83d", "not UTF-8"]),
        (".parquet", ["caf\udce9", "not UTF-8"]),
    ],
)
def test_cells_that_a_format_cannot_carry_are_rejected(tmp_path, suffix, cells):
    with pytest.raises(DataError):
        write_table(Table({"text": cells}, "given"), tmp_path / f"a{suffix}")


def test_an_unknown_ending_is_not_written(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt: expected a file ending in"):
        write_table(Table(ROWS, "given"), tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "bad"), [(".tsv", "a\tb"), (".jsonl", {1}), (".parquet", {1}), (".csv", "\ud800")]
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, suffix, bad):
    old = put(tmp_path, f"a{suffix}", "old")
    with pytest.raises((DataError, TypeError, ValueError)):
        write_table(Table({"text": ["good", bad]}, "given"), old)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(old.name, "old")]
