"""Files that are written: what comes back after reading, and what a failure leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadebert.data.readers import read_table
from cascadebert.data.table import Table
from cascadebert.data.writers import write_table
from cascadebert.errors import DataError

NASTY = ("a", "é", "☃", '"', "'", ",", ";", " ", "\\", "\x85", "\u2028")
CELLS = {
    ".csv": st.text(st.sampled_from((*NASTY, "\udce9", "\t", "\n", "\r"))),
    ".tsv": st.text(st.sampled_from((*NASTY, "\udce9"))),
    ".jsonl": st.text(st.sampled_from((*NASTY, "\t", "\n", "\r", "\0"))) | st.none(),
    ".parquet": st.text(st.sampled_from((*NASTY, "\t", "\n", "\r", "\0"))) | st.none(),
}


def written(folder: Path, columns: dict[str, list[object]], suffix: str) -> dict[str, list[object]]:
    """The columns after a trip through a file."""
    path = folder / f"out{suffix}"
    write_table(Table(columns, "given"), path)
    return dict(read_table(path).columns)


@pytest.mark.parametrize("suffix", CELLS)
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_what_is_written_is_read_again(suffix, data, tmp_path_factory):
    count = data.draw(st.integers(1, 4))
    column = st.lists(CELLS[suffix], min_size=count, max_size=count)
    columns = data.draw(st.fixed_dictionaries({"text": column, "other": column}))
    columns["text"][-1] = "x"  # a row without any content at the end of a file is none
    assert written(tmp_path_factory.mktemp("trip"), columns, suffix) == columns


@pytest.mark.parametrize("suffix", CELLS)
def test_a_single_column_keeps_its_empty_cells(tmp_path, suffix):
    columns = {"text": ["a", "", "b", ""]}
    assert written(tmp_path, columns, suffix) == columns


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_an_empty_cell_is_written_as_nothing_where_cells_are_strings(tmp_path, suffix):
    assert written(tmp_path, {"text": ["a"], "note": [None]}, suffix) == {"text": ["a"], "note": [""]}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_numbers_keep_their_type_where_the_format_has_types(tmp_path, suffix):
    columns = {"count": [1, 2], "share": [0.25, 1.0], "flag": [True, False]}
    assert json.dumps(written(tmp_path, columns, suffix)) == json.dumps(columns)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b'text,note\nplain,caf\xe9\n"a, b",\xff\xfe\x80\n'),
        ("a.csv", b"text,gr\xf6\xdfe\nplain,1\n"),
        ("a.tsv", b"text\tnote\nplain\tcaf\xe9\n"),
    ],
)
def test_bytes_of_csv_that_are_not_utf8_come_out_as_they_went_in(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    write_table(read_table(tmp_path / name), tmp_path / f"b{name}")
    assert (tmp_path / f"b{name}").read_bytes() == content


def test_an_unknown_ending_is_not_written(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt: expected a file ending in"):
        write_table(Table({"text": ["one"]}, "given"), tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".parquet"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, suffix):
    old = tmp_path / f"a{suffix}"
    old.write_text("old")
    with pytest.raises((DataError, TypeError, ValueError)):
        write_table(Table({"text": ["good", {1}]}, "given"), old)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(old.name, "old")]
