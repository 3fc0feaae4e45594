"""Labels of data and of stages: names are the checkpoint's own, data may give ids, a file maps the rest."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from cascadebert import Cascade, Target, assemble
from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.data.labels import read_label_map
from cascadebert.errors import DataError
from samples import reviews, write_csv
from test_checkpoint_config import edited

NAMES = ("negative", "neutral", "positive")


def examples(*labels: str) -> Examples:
    """One example of each label."""
    return Examples([f"text {i}" for i in range(len(labels))], labels, source="rows.csv")


@pytest.mark.parametrize(
    "given, names, expected",
    [
        (("positive", "negative"), NAMES, ("positive", "negative")),
        (("2", "0"), NAMES, ("positive", "negative")),
        (("1", "0"), ("LABEL_0", "LABEL_1"), ("LABEL_1", "LABEL_0")),
        (("1", "1"), ("LABEL_0", "LABEL_1"), ("LABEL_1", "LABEL_1")),
        (("LABEL_1", "LABEL_0"), ("LABEL_1", "LABEL_0"), ("LABEL_1", "LABEL_0")),
        (("LABEL_1", "LABEL_0"), ("0", "1"), ("1", "0")),
        (("1", "2"), ("1", "2"), ("1", "2")),
    ],
)
def test_labels_of_data_are_names_or_ids(given, names, expected):
    assert examples(*given).match_labels(names).labels == expected


@pytest.mark.parametrize(
    "given, names",
    [
        (("0", "3"), NAMES),  # no such id
        (("1", "2"), NAMES),  # may count from 1
        (("0", "positive"), NAMES),  # both
        (("0", "1"), ("1", "2")),  # the names are numbers themselves
        (("LABEL_0", "LABEL_1"), ("negative", "positive")),
        (("0", "2"), ("LABEL_0", "LABEL_1")),
    ],
)
def test_labels_that_are_neither_are_refused_with_the_remedy(given, names):
    with pytest.raises(
        DataError, match=r"rows.csv, row \d, column 'label': unknown label .*--label-map FILE"
    ):
        examples(*given).match_labels(names)


def test_ids_of_named_labels_are_told(caplog):
    examples("0", "2").match_labels(NAMES)
    assert caplog.messages == ["rows.csv: labels are read as the stages' ids: 0 = negative, 2 = positive"]
    caplog.clear()
    examples("0", "1").match_labels(("LABEL_0", "LABEL_1"))
    assert not caplog.messages


def test_case_and_space_differences_are_suggested():
    with pytest.raises(DataError, match="case, spaces or Unicode form: 'Very Good' from 'very_good'"):
        examples("Very Good", "bad").match_labels(("Bad", "very_good"))


def test_a_long_list_of_labels_is_cut():
    with pytest.raises(DataError) as error:
        examples("other").match_labels([f"name {i}" for i in range(150)])
    assert "and 138 more" in str(error.value) and len(str(error.value)) < 400


def test_the_row_of_an_unknown_label_is_that_of_the_file():
    kept = examples("a", "b", "x", "b").take(np.array([1, 3, 2]))
    with pytest.raises(DataError, match=r"row 3, .*unknown label 'x'"):
        kept.label_ids(("a", "b"))


@pytest.mark.parametrize(
    "content",
    [
        '{"pos": "positive", "1": "neutral"}',
        "pos,positive\n1,neutral\n",
        "\ufeffpos,positive\n\n1,neutral\n",
    ],
)
def test_a_label_map_is_a_json_object_or_a_csv_file_of_two_columns(tmp_path, content):
    (tmp_path / "map").write_text(content, "utf-8")
    assert read_label_map(tmp_path / "map") == {"pos": "positive", "1": "neutral"}


@pytest.mark.parametrize(
    "content, message",
    [
        ("a,b,c\n", "entry 1: expected two cells"),
        ("a,b\nc\n", "entry 2: expected two cells"),
        ("a,b\na,c\n", "two names for the label 'a': 'b' and 'c'"),
        ('{"a": ["b"]}', "no readable label map"),
        ('{"a": ', "no readable label map"),
    ],
)
def test_what_is_no_label_map_is_refused(tmp_path, content, message):
    (tmp_path / "map").write_text(content)
    with pytest.raises(DataError, match=message):
        read_label_map(tmp_path / "map")


def test_mapped_labels_are_read_from_a_file(tmp_path):
    file = write_csv(tmp_path / "rows.csv", ["one", "two", "three"], ["pos", "1", "negative"])
    mapped = load_examples(file, columns=Columns(label_map={"pos": "positive", "1.0": "neutral"}))
    assert mapped.labels == ("positive", "neutral", "negative")


def test_a_map_may_name_what_is_a_missing_label_otherwise(tmp_path):
    file = write_csv(tmp_path / "rows.csv", list("abc"), ["-1", "nan", "1"])
    label_map = {"-1": "negative", "nan": "neutral", "1": "positive"}
    mapped = load_examples(file, columns=Columns(label_map=label_map)).match_labels(NAMES)
    assert mapped.labels == NAMES


def test_keys_of_a_label_map_are_matched_as_they_are_written_before_they_are_as_numbers(tmp_path):
    (tmp_path / "map").write_text("1,one\n1.0,one point zero\n+2,two\n")
    label_map = read_label_map(tmp_path / "map")
    assert label_map == {"1": "one", "1.0": "one point zero", "+2": "two"}
    file = write_csv(tmp_path / "rows.csv", list("abcd"), ["1.0", "1", "2.0", "+1"])
    labels = load_examples(file, columns=Columns(label_map=label_map)).labels
    assert labels == ("one point zero", "one", "two", "+1")  # of two keys that equal +1 neither is meant


@pytest.fixture(scope="module")
def unnamed(make_model, tmp_path_factory):
    """A saved cascade of stages whose labels have no names."""
    root = tmp_path_factory.mktemp("unnamed")
    texts, labels = reviews(120, seed=3)
    ids = [str(int(label == "positive")) for label in labels]
    labels = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    stages = [edited(make_model(layers=i, hidden=16 * i), root / f"{i}", labels) for i in (1, 2)]
    data = write_csv(root / "ids.csv", texts, ids)
    write_csv(root / "names.csv", texts, [f"LABEL_{i}" for i in ids])
    write_csv(root / "words.csv", texts, ["good" if i == "1" else "bad" for i in ids])
    assemble(stages, data=data, target=Target(max_accuracy_drop=0.5), output=root / "cascade", engine="torch")
    return root


def test_answers_have_the_checkpoints_own_names(unnamed):
    cascade = Cascade.from_pretrained(unnamed / "cascade")
    assert cascade.label_names == ("LABEL_0", "LABEL_1")
    assert set(cascade.predict(["fine", "dull"]).labels) <= {"LABEL_0", "LABEL_1"}


def test_data_with_ids_names_and_mapped_words_give_one_report(unnamed, run):
    (unnamed / "map.json").write_text('{"good": "LABEL_1", "bad": 0}')
    (unnamed / "map.csv").write_text("good,LABEL_1\nbad,LABEL_0\n")
    reports = [
        run("evaluate", unnamed / "cascade", unnamed / file, "--json", *options)[:2]
        for file, *options in (
            ("ids.csv",),
            ("names.csv",),
            ("words.csv", "--label-map", unnamed / "map.csv"),
        )
    ]
    assert [code for code, _ in reports] == [0, 0, 0]
    assert reports[0] == reports[1] == reports[2]
    code, _, said = run("evaluate", unnamed / "cascade", unnamed / "words.csv")
    assert code == 2 and "--label-map" in said


def test_a_cascade_that_was_saved_with_numbers_for_unnamed_labels_still_opens(unnamed, tmp_path, run):
    folder = unnamed / "cascade"
    spec = json.loads((folder / "cascade.json").read_text())
    spec["label_names"] = ["0", "1"]
    shutil.copytree(folder, tmp_path / "old")
    (tmp_path / "old" / "cascade.json").write_text(json.dumps(spec))
    cascade = Cascade.from_pretrained(tmp_path / "old")
    assert cascade.label_names == ("0", "1") and set(cascade.predict(["fine"]).labels) <= {"0", "1"}
    reports = [run("evaluate", path, unnamed / "ids.csv", "--json")[1] for path in (tmp_path / "old", folder)]
    assert reports[0] == reports[1] and reports[0]["n"] == 120
    code, values, _ = run("evaluate", tmp_path / "old", unnamed / "names.csv", "--baseline", folder, "--json")
    assert code == 2 and values is None  # all examples were used to tune


@pytest.mark.parametrize("verb", ["assemble", "tune"])
def test_every_verb_that_reads_labels_of_existing_stages_takes_a_map(unnamed, tmp_path, run, verb):
    (tmp_path / "map.csv").write_text("good,LABEL_1\nbad,LABEL_0\n")
    data, folder = unnamed / "words.csv", shutil.copytree(unnamed / "cascade", tmp_path / "cascade")
    target = ("--data", data, "--max-accuracy-drop", 0.5)
    words = {
        "assemble": (
            "--stage",
            unnamed / "1",
            "--stage",
            unnamed / "2",
            *target,
            "--output",
            tmp_path / "c",
            "--engine",
            "torch",
        ),
        "tune": (folder, *target),
    }[verb]
    code, _, said = run(verb, *words)
    assert (
        code == 2 and "words.csv, row 1, column 'label': unknown label" in said and "--label-map FILE" in said
    )
    assert run(verb, *words, "--label-map", tmp_path / "map.csv")[0] == 0


@pytest.mark.slow
def test_bench_takes_a_map_and_without_it_says_which_labels_are_unknown(unnamed, tmp_path, run):
    (tmp_path / "map.csv").write_text("good,LABEL_1\nbad,LABEL_0\n")
    words = ("bench", unnamed / "cascade", unnamed / "words.csv", "--repeats", 1, "--json")
    code, values, said = run(*words)
    assert code == 0 and values["cascade"]["accuracy"] is None
    assert (
        "words.csv: 0 of 120 rows have a usable label" in said
        and "Unknown: bad, good; known: LABEL_0, LABEL_1." in " ".join(said.split())
    )
    code, values, said = run(*words, "--label-map", tmp_path / "map.csv")
    assert code == 0 and 0 <= values["cascade"]["accuracy"] <= 1 and "usable" not in said
