"""Csv and tsv: delimiters, headers, and broken rows that spoil no other."""

from __future__ import annotations

import pytest

from cascadebert.data.columns import Columns
from cascadebert.data.readers import read_chunks, read_layout, read_table
from cascadebert.errors import DataError
from file_samples import faults, put


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
