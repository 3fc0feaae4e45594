"""Folders, patterns, saved data sets and streams: nothing is left out silently, nothing read twice."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import threading
from pathlib import Path

import datasets
import pytest

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import load_examples
from cascadebert.data.readers import read_layout, read_table
from cascadebert.data.streams import copy_stream
from cascadebert.errors import DataError
from file_samples import CSV, put


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
        (gzip.compress(CSV.encode(), mtime=0).decode("latin-1"), ["one", "two"]),
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


@pytest.mark.parametrize("content", [gzip.compress(CSV.encode() * 99, mtime=0)[:60], b"\x28\xb5\x2f\xfdjunk"])
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
