"""Files that are written: what is read again, what is escaped, and what is refused beforehand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadebert.data.readers import read_table
from cascadebert.data.table import Json, Table
from cascadebert.data.text_cells import BREAKS, NOT_UTF8
from cascadebert.data.writers import join_parts, write_table
from cascadebert.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
NASTY = ("a", "é", "☃", '"', "'", ",", ";", " ", "\\", "\x85", "\u2028", "\ufeff")
CELLS = {
    ".csv": st.text(st.sampled_from((*NASTY, "\t", "\n", "\r", "\udce9"))),
    ".tsv": st.text(st.sampled_from((*NASTY, "\udce9"))),
    ".jsonl": st.text(st.sampled_from((*NASTY, "\t", "\n", "\r", "\0"))) | st.none(),
    ".parquet": st.text(st.sampled_from((*NASTY, "\t", "\n", "\r", "\0"))) | st.none(),
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


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_what_is_written_is_read_again(suffix, data, tmp_path_factory):
    count = data.draw(st.integers(1, 4))
    column = st.lists(CELLS[suffix], min_size=count, max_size=count)
    cells = data.draw(st.fixed_dictionaries({"text": column, "other": column}))
    columns = {"n": ["x"] * count, **cells}  # rows without any cell are left out
    assert written(tmp_path_factory.mktemp("trip"), columns, suffix) == columns


@pytest.mark.parametrize("suffix", SUFFIXES)
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
        ("a.csv", b"text,gr\xf6\xdfe\nplain,1\n"),
        ("a.tsv", b"text\tnote\nplain\tcaf\xe9\n"),
    ],
)
def test_bytes_that_are_not_utf8_come_out_as_they_went_in(tmp_path, name, content):
    write_table(read_table(put(tmp_path, name, content)), tmp_path / f"b{name}")
    assert (tmp_path / f"b{name}").read_bytes() == content


@pytest.mark.parametrize(
    ("kind", "cells"), [("integer", ["one"]), ("boolean", ["yes"]), ("number", [Json("[1]")])]
)
def test_a_cell_of_another_type_than_was_settled_is_refused_by_column(tmp_path, kind, cells):
    with pytest.raises(DataError, match=r"given: the column 'odd' .*Write jsonl"):
        write_table(Table({"odd": cells}, "given"), tmp_path / "a.parquet", {"odd": kind})


@pytest.mark.parametrize("name", ["\ufefftext", "sep=;", "a;b", "a|b", "a\tb", 'a"b', "a\nb", ""])
def test_a_csv_header_is_read_as_it_was_written(tmp_path, name):
    columns = {name: ["c;d", "e", "\ufeff"]}
    assert written(tmp_path, columns, ".csv") == columns


def test_what_was_escaped_is_counted(tmp_path):
    table = Table(
        {"a": ["x\ty", "\r", "caf\udce9"], "b": ["\ud83d", "fine", Json('["\udce9\udce9"]')]}, "given"
    )
    assert write_table(table, tmp_path / "a.tsv") == Counter({BREAKS: 2, NOT_UTF8: 2})
    assert write_table(table, tmp_path / "a.csv") == Counter({NOT_UTF8: 2})
    assert write_table(table, tmp_path / "a.jsonl") == Counter({NOT_UTF8: 3})
    assert write_table(table, tmp_path / "a.parquet", {"a": "string", "b": "json"}) == Counter({NOT_UTF8: 3})
    assert write_table(Table({"a": ["fine"]}, "given"), tmp_path / "b.tsv") == Counter()


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.jsonl", "a.ndjson", "a.CSV.gz", "a.tsv.zst", "a.ndjson.zst"]
)
def test_parts_are_joined_and_compressed(tmp_path, name):
    suffix = {"ndjson": ".jsonl"}.get(name.split(".")[1], f".{name.split('.')[1].lower()}")
    parts = [tmp_path / f"{i}{suffix}" for i in range(3)]
    for i, part in enumerate(parts):
        write_table(Table({"text": [f"é{i}", ""], "caf\udce9": ["x", "y"]}, "given"), part)
    joined, again, whole = (tmp_path / f"{prefix}-{name}" for prefix in ("joined", "again", "whole"))
    for path in (joined, again):
        join_parts(parts, path, columns=["text", "caf\udce9"])
    assert joined.read_bytes() == again.read_bytes()
    texts = ["é0", "", "é1", "", "é2", ""]
    write_table(Table({"text": texts, "caf\udce9": ["x", "y"] * 3}, "given"), whole)
    assert read_table(joined).columns == read_table(whole).columns
    assert read_table(joined).columns["text"] == texts


def test_an_unknown_ending_is_not_written(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt: expected a file ending in"):
        write_table(Table(ROWS, "given"), tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, suffix):
    old = put(tmp_path, f"a{suffix}", "old")
    with pytest.raises((DataError, TypeError)):
        write_table(Table({"text": ["good", {1}]}, "given"), old)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(old.name, "old")]
