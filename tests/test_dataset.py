"""From sources to checked examples: the same content gives the same rows, a bad cell is named."""

from __future__ import annotations

import csv
import datetime
import json
from decimal import Decimal
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.data.table import Table
from cascadebert.errors import DataError

TEXTS = ["a good film", 'a "bad" film, really', "naïve ☃"]
SOURCES = ("csv", "tsv", "jsonl", "parquet", "dataset", "folder", "table")


@pytest.fixture(autouse=True)
def cache_of_datasets(tmp_path_factory, monkeypatch):
    """What `datasets` prepares from local folders goes to a folder of the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def put(folder: Path, name: str, content: str | bytes) -> Path:
    """A file with these bytes."""
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def source(kind: str, folder: Path, columns: dict[str, list[object]]) -> object:
    """The columns as one kind of thing that `load_examples` takes."""
    rows = list(zip(*columns.values(), strict=True))
    if kind == "csv":
        with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
        return folder / "rows.csv"
    if kind == "tsv":
        lines = ["\t".join(map(str, row)) for row in [columns, *rows]]
        return put(folder, "rows.tsv", "\n".join(lines))
    if kind == "jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
        return put(folder, "rows.jsonl", "\n".join(lines))
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / "rows.parquet")
        return str(folder / "rows.parquet")
    if kind == "dataset":
        return datasets.Dataset.from_dict(columns)
    if kind == "folder":
        (folder / "hub").mkdir()
        return str(source("csv", folder / "hub", columns).parent)
    return Table(columns, "table")


def declared(texts: list[str], labels: list[int | None], names: list[str]) -> datasets.Dataset:
    """A data set in memory whose labels are numbers with declared names."""
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=datasets.Features(features))


def rows_of(examples: Examples) -> tuple[object, ...]:
    """What the rows say, without where they came from."""
    return list(examples.texts), examples.labels, examples.groups


# ---- the same content from everywhere


@pytest.mark.parametrize("labels", [[1, 0, 1], ["1", "0", "1"]])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_rows_for_numbers_as_labels(tmp_path, kind, labels):
    examples = load_examples(source(kind, tmp_path, {"text": TEXTS, "label": labels}))
    assert rows_of(examples) == (TEXTS, ("1", "0", "1"), None)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_rows_for_words_and_groups(tmp_path, kind):
    columns = {"id": [7, 8, 7], "text": TEXTS, "label": ["good", "bad", "good"]}
    examples = load_examples(source(kind, tmp_path, columns), columns=Columns(group="id"))
    assert rows_of(examples) == (TEXTS, ("good", "bad", "good"), ("7", "8", "7"))


def test_a_declared_label_is_read_by_its_name():
    examples = load_examples(declared(TEXTS, [1, 0, 1], ["bad", "good"]))
    assert rows_of(examples) == (TEXTS, ("good", "bad", "good"), None)


def test_numbers_are_read_by_their_digits_and_strings_as_they_are_written(tmp_path):
    numbers = load_examples(source("parquet", tmp_path, {"text": TEXTS, "label": [1.0, 0.5, None]}))
    words = load_examples(source("csv", tmp_path, {"text": TEXTS, "label": [" 1", "0.0", "+10"]}))
    assert numbers.labels == ("1", "0.5", None) and words.labels == (" 1", "0.0", "+10")


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        *[(cell, None) for cell in (None, float("nan"), np.float64("nan"), Decimal("nan"), "", " \t")],
        *[(cell, "1") for cell in (1, 1.0, np.int8(1), np.float32(1), Decimal("1.00"))],
        *[(cell, "0.5") for cell in (0.5, np.float64(0.5), Decimal("0.5"))],
        *[(cell, str(cell)) for cell in (True, np.False_, -1, "nan", "-1", "spam ", "1e5", 2**70)],
        (1e-7, "1e-07"),
        (float("inf"), "inf"),
    ],
)
def test_a_cell_gives_a_label_as_it_is_written(cell, label):
    assert load_examples(Table({"text": ["a"], "label": [cell]}, "table")).labels == (label,)


@pytest.mark.parametrize("cell", [["x"], {"a": 1}, b"x", "\udce9", datetime.date(2026, 1, 1)])
def test_a_cell_that_is_no_label_is_refused_only_where_labels_are_required(cell):
    table = Table({"text": ["a", "b"], "label": ["x", cell]}, "table")
    with pytest.raises(DataError, match="table, row 2, column 'label': "):
        load_examples(table)
    assert load_examples(table, labels=False).labels == ("x", None)


def test_large_whole_numbers_stay_different_labels(tmp_path):
    given = ["9007199254740993", "9007199254740992"]
    examples = load_examples(source("csv", tmp_path, {"text": ["a", "b"], "label": given}))
    assert examples.labels == tuple(given)


def test_examples_pass_through_as_they_are():
    examples = Examples(["a"], ("x",))
    assert load_examples(examples) is examples


def test_a_data_set_by_name_takes_the_usual_split_unless_another_is_asked_for(tmp_path):
    put(tmp_path, "hub/train.csv", "text,label\na,0\nb,1\n")
    put(tmp_path, "hub/test.csv", "text,label\nc,0\n")
    name = str(tmp_path / "hub")
    found = [load_examples(name), load_examples(name, split="test"), load_examples(f"{name}@test")]
    assert [list(examples.texts) for examples in found] == [["a", "b"], ["c"], ["c"]]


def test_a_folder_with_a_readme_is_read_as_any_other(tmp_path):
    put(tmp_path, "in/README.md", "# My data\n\n---\nconfigs: none\n")
    put(tmp_path, "in/a.csv", "text,label\na,0\n")
    assert load_examples(tmp_path / "in", split="validation").texts == ["a"]


def test_a_data_set_by_name_takes_the_configuration_asked_for(tmp_path):
    for name in ("one", "two"):
        put(tmp_path, f"hub/{name}/all.csv", f"text,label\nof {name},0\n")
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: dev\n    path: {name}/*.csv\n"
        for name in ("one", "two")
    )
    put(tmp_path, "hub/README.md", f"---\nconfigs:\n{configs}---\n")
    assert load_examples(f"{tmp_path / 'hub'}:two@dev").texts == ["of two"]


@pytest.mark.parametrize("folder", ["of@home", "12:30"])
def test_a_folder_may_have_the_signs_of_a_split_in_its_name(tmp_path, folder):
    put(tmp_path, f"{folder}/train.csv", "text,label\na,0\n")
    assert load_examples(tmp_path / folder).texts == ["a"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{}@nope", "hub has no files of the split 'nope' (found: train)"),
        ("{}/gone", "hub/gone: neither a file ending in .csv, .tsv, .jsonl"),
        ("{}/gone.txt", "hub/gone.txt: no such file or folder"),
    ],
)
def test_a_data_set_that_is_not_there_is_named(tmp_path, name, said):
    put(tmp_path, "hub/train.csv", "text,label\na,0\n")
    wanted = name.format(tmp_path / "hub")
    with pytest.raises(DataError) as caught:
        load_examples(wanted)
    assert said in str(caught.value)


def test_a_bad_row_of_a_data_set_by_name_says_which_data_set(tmp_path):
    name = source("folder", tmp_path, {"text": ["a", " "], "label": [0, 1]})
    with pytest.raises(DataError, match=r"hub.*row 2, column 'text': empty text"):
        load_examples(name)


def test_a_data_set_of_several_splits_is_rejected_with_their_names():
    both = datasets.DatasetDict({name: declared(["a"], [0], ["x", "y"]) for name in ("train", "test")})
    with pytest.raises(DataError, match=r"train.*test"):
        load_examples(both)


@pytest.mark.parametrize(
    "names",
    [
        ("text",),
        ("sentence",),
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question", "sentence"),
    ],
)
def test_the_usual_text_columns_are_found(tmp_path, names):
    columns = {"idx": [5, 6], "label": [0, 1], **{name: [f"{name} a", f"{name} b"] for name in names}}
    rows = list(zip(*(columns[name] for name in names), strict=True))
    expected = rows if len(names) == 2 else [text for (text,) in rows]
    assert load_examples(source("csv", tmp_path, columns)).texts == expected


def test_named_columns_win_over_the_usual_ones_and_keep_their_order(tmp_path):
    columns = {"text": ["t", "u"], "label": [0, 1], "a": ["a1", "a2"], "b": ["b1", "b2"], "y": ["p", "q"]}
    wanted = Columns(text=("b", "a"), label="y")
    examples = load_examples(source("csv", tmp_path, columns), columns=wanted)
    assert rows_of(examples) == ([("b1", "a1"), ("b2", "a2")], ("p", "q"), None)


def test_at_most_a_pair_of_text_columns_can_be_named():
    with pytest.raises(DataError, match="at most two text columns"):
        Columns(text=("a", "b", "c"))


@pytest.mark.parametrize(
    ("columns", "missing", "option"),
    [
        (Columns(), "text", "--text-column"),
        (Columns(text=("body",)), "body", "--text-column"),
        (Columns(text=("review",), label="y"), "y", "--label-column"),
        (Columns(text=("review",)), "label", "--label-column"),
        (Columns(text=("review",), label="stars", group="user"), "user", "--group-column"),
    ],
)
def test_a_missing_column_lists_the_columns_found_and_the_option(tmp_path, columns, missing, option):
    path = source("csv", tmp_path, {"review": ["a"], "stars": [1]})
    with pytest.raises(DataError) as caught:
        load_examples(path, columns=columns)
    message = str(caught.value)
    assert message.startswith(f"rows.csv has no column '{missing}' (columns found: review, stars)")
    assert option in message


def test_the_column_offered_for_a_missing_label_is_not_the_text(tmp_path):
    path = source("csv", tmp_path, {"text": ["a"], "stars": [1]})
    with pytest.raises(DataError) as caught:
        load_examples(path)
    assert "--label-column text" not in str(caught.value)


def test_labels_and_groups_that_need_not_be_there_are_none(tmp_path):
    path = source("csv", tmp_path, {"text": TEXTS})
    examples = load_examples(path, columns=Columns(group="id"), labels=False, groups=False)
    assert rows_of(examples) == (TEXTS, None, None)


# ---- bad cells


@pytest.mark.parametrize(
    ("kind", "column", "cell", "fault"),
    [
        *[(kind, "b", text, "empty text") for kind in ("csv", "jsonl", "parquet") for text in ("", " \t ")],
        *[(kind, "b", None, "empty text") for kind in ("jsonl", "parquet")],
        ("jsonl", "y", ["x", "y"], "expected one label (a string or a number), found list"),
        ("jsonl", "y", {"a": 1}, "expected one label (a string or a number), found dict"),
        ("jsonl", "b", 3, "expected text, found int 3"),
        ("jsonl", "b", 2.5, "expected text, found float 2.5"),
        ("jsonl", "b", True, "expected text, found bool True"),
        ("jsonl", "b", ["a"], "expected text, found list ['a']"),
        ("csv", "user", "", "no group"),
        ("jsonl", "user", None, "no group"),
    ],
)
def test_a_bad_cell_is_named_by_file_row_and_column(tmp_path, kind, column, cell, fault):
    good = {"a": ["p", "q"], "b": ["r", "s"], "y": ["1", "0"], "user": ["u", "v"]}
    path = source(kind, tmp_path, {**good, column: [good[column][0], cell]})
    with pytest.raises(DataError) as caught:
        load_examples(path, columns=Columns(text=("a", "b"), label="y", group="user"))
    assert str(caught.value).startswith(f"rows.{kind}, row 2, column '{column}': {fault}")


@pytest.mark.parametrize("label", [None, -1])
def test_a_declared_label_that_is_not_given_is_missing(label):
    examples = load_examples(declared(["a", "b"], [0, label], ["x", "y"]))
    assert examples.labels == ("x", None)
    with pytest.raises(DataError, match=r"row 2, column 'label': no label \(empty or NaN\)"):
        examples.match_labels(["x", "y"])


def test_further_bad_rows_are_counted(tmp_path):
    path = source("csv", tmp_path, {"text": ["a", " ", "b", "", " "], "label": [0, 1, 0, 1, 0]})
    with pytest.raises(DataError, match=r"row 2, column 'text': empty text \(2 more such rows\)"):
        load_examples(path)


@pytest.mark.parametrize("kind", SOURCES)
def test_a_text_of_a_megabyte_is_read_from_every_source(tmp_path, kind):
    examples = load_examples(source(kind, tmp_path, {"text": ["a", "x" * 1_000_000], "label": [0, 1]}))
    assert [len(text) for text in examples.texts] == [1, 1_000_000]


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("a.csv", b"text,label\nplain,x\ncaf\xe9,y\n", "text"),
        ("a.tsv", b"text\tlabel\nplain\tx\nfine\t\xff\xe9\n", "label"),
        ("a.jsonl", b'{"text": "plain", "label": 0}\n{"text": "caf\xe9", "label": 1}\n', "text"),
    ],
)
def test_bytes_that_are_not_utf8_are_named_by_row_and_column(tmp_path, name, content, column):
    with pytest.raises(DataError, match=rf"{name}, row 2, column '{column}': bytes that are not UTF-8"):
        load_examples(put(tmp_path, name, content))


def test_bytes_that_are_not_utf8_do_no_harm_in_other_columns(tmp_path):
    path = put(tmp_path, "a.csv", b"text,note,label\nplain,caf\xe9,x\n")
    assert rows_of(load_examples(path)) == (["plain"], ("x",), None)
