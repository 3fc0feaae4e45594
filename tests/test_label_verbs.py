"""Labels through the command line: stages with unusual names, and verbs that need no labels."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from cascadebert import Cascade
from cascadebert.data.dataset import load_examples
from cascadebert.evaluation.evaluate import load_for
from samples import reviews, write_csv

NAMES = ("1.0", "2.0", "+1", "-1", "spam ", "nan")
SPEED = ("--target-speedup", 1.1)
NOT_USABLE = {
    "all -1": [-1],
    "all empty": [""],
    "all null": [None],
    "fractions": [0.5, 0.25, 1e-3],
    "unknown": ["good", "bad"],
    "lists": [["positive"], {"a": 1}, [1, 0]],
    "not UTF-8": ["caf\udce9"],
    "ids and others": [0, 1, 7],
    "partly missing": ["positive", None],
}


def write_jsonl(path, texts, labels=()):
    """A file of these texts, with the labels over and over; without labels there is no such column."""
    rows = [{"text": text} for text in texts]
    for i, row in enumerate(rows if labels else []):
        row["label"] = labels[i % len(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def odd(make_model, tmp_path_factory):
    """Two classifiers with names that look like other things, and data with just these labels."""
    root, texts = tmp_path_factory.mktemp("odd"), reviews(90, seed=6)[0]
    sloppy = ("1.0 ", "2", "+1", "-1", "spam", "nan ")
    for name, labels in (("rows", NAMES), ("sloppy", sloppy)):
        write_csv(root / f"{name}.csv", texts, [labels[i % 6] for i in range(90)])
    return root, [make_model(layers=i, hidden=16 * i, seed=i, labels=NAMES) for i in (1, 2)]


@pytest.mark.slow
def test_odd_names_fit_together_from_assemble_to_tune(odd, run, tmp_path):
    (root, stages), folder = odd, tmp_path / "cascade"
    words = ("--stage", stages[0], "--stage", stages[1], "--data", root / "rows.csv", *SPEED)
    assert run("assemble", *words, "--output", folder, "--engine", "torch")[0] == 0
    cascade = Cascade.from_pretrained(folder)
    assert cascade.label_names == NAMES
    predicted = cascade.predict(load_examples(root / "rows.csv").texts).labels
    accuracy = np.mean(predicted == np.array([NAMES[i % 6] for i in range(90)]))
    for file in ("rows.csv", "sloppy.csv"):
        code, values, said = run("evaluate", folder, root / file, "--json")
        assert code == 0 and values["accuracy"] == pytest.approx(accuracy) and "matched" not in said
        code, values, _ = run("tune", folder, "--data", root / file, "--max-accuracy-drop", 0.9, "--json")
        assert code == 0 and values["metric"] == "accuracy" and values["n"] == 90


@pytest.mark.slow
def test_fit_keeps_the_names_and_the_order_of_a_classifier_that_has_just_these_labels(odd, run, tmp_path):
    (root, stages), folder = odd, tmp_path / "cascade"
    code, _, said = run(
        "fit", "--train", root / "sloppy.csv", "--stage", stages[0], "--stage", stages[1], *SPEED,
        "--output", folder, "--epochs", 1, "--max-length", 32, "--dar-weight", 0, "--engine", "torch",
    )  # fmt: skip
    assert code == 0, said
    assert Cascade.from_pretrained(folder).label_names == NAMES
    assert run("evaluate", folder, root / "rows.csv", "--json")[1]["n"] == 90


def test_case_is_ignored_last_and_told(saved, run, tmp_path):
    texts, labels = reviews(60, seed=9)
    plain = run("evaluate", saved, write_csv(tmp_path / "plain.csv", texts, labels), "--json")
    loud = write_csv(tmp_path / "loud.csv", texts, [label.upper() for label in labels])
    code, values, said = run("evaluate", saved, loud, "--json")
    assert code == 0 and values == plain[1]
    assert "matched ignoring case: NEGATIVE = negative, POSITIVE = positive" in " ".join(said.split())


# ---- where no label is needed


@pytest.mark.parametrize("case", NOT_USABLE)
def test_labels_that_are_not_needed_are_not_judged(known, tmp_path, caplog, case):
    file = write_jsonl(tmp_path / "rows.jsonl", reviews(6, seed=1)[0], NOT_USABLE[case])
    assert load_for(known, file, labels=False).labels is None
    usable = 3 if case == "partly missing" else 0
    assert f"rows.jsonl: {usable} of 6 rows have a usable label; none is needed here" in caplog.text


def test_a_column_of_labels_that_is_not_needed_may_be_absent(known, tmp_path, caplog):
    file = write_jsonl(tmp_path / "rows.jsonl", reviews(6, seed=1)[0])
    assert load_for(known, file, labels=False).labels is None and not caplog.messages


@pytest.fixture
def mixed(tmp_path):
    """300 new rows; every seventh has the right kind of label, the others have none that can be used."""
    labels = ["positive", ["negative"], None, -1, 0.5, "other", ""]
    return write_jsonl(tmp_path / "mixed.jsonl", reviews(300, seed=77)[0], labels)


USABLE = "mixed.jsonl: 43 of 300 rows have a usable label; none is needed here, so labels are not used."


def flat(said: str) -> str:
    """What was said, without line breaks."""
    return " ".join(said.split())


@pytest.mark.parametrize("target", [("--min-agreement", 0.5), SPEED])
def test_tune_for_agreement_or_speed_does_not_judge_labels(saved, mixed, run, tmp_path, target):
    folder = shutil.copytree(saved, tmp_path / "cascade")
    code, values, said = run("tune", folder, "--data", mixed, *target, "--json")
    assert code == 0 and USABLE in flat(said)
    assert (values["metric"], values["accuracy"], values["n"]) == ("agreement", None, 300)


def test_certify_for_agreement_does_not_judge_labels(saved, mixed, run, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "cascade")
    words = ("tune", folder, "--data", mixed, "--min-agreement", 0.3, "--confidence-level", 0.9, "--json")
    code, values, said = run(*words)
    assert code == 0 and USABLE in flat(said) and values["accuracy"] is None


def test_accuracy_targets_do_judge_them(saved, mixed, run, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "cascade")
    code, _, said = run("tune", folder, "--data", mixed, "--min-accuracy", 0.1)
    assert code == 2 and "mixed.jsonl, row 2, column 'label': expected one label" in flat(said)


def test_drift_does_not_judge_labels(saved, mixed, run, tmp_path):
    reference, _ = reviews(300, seed=78)
    plain = write_jsonl(tmp_path / "plain.jsonl", reference)
    code, values, said = run("drift", saved, plain, mixed, "--json")
    bare = write_jsonl(tmp_path / "bare.jsonl", reviews(300, seed=77)[0])
    assert USABLE in flat(said) and "plain.jsonl:" not in said
    assert (code, values) == run("drift", saved, plain, bare, "--json")[:2]


@pytest.mark.slow
def test_bench_does_not_judge_labels(saved, mixed, run):
    code, values, said = run("bench", saved, mixed, "--repeats", 1, "--json")
    assert code == 0 and USABLE in flat(said) and "n/a" in said
    assert values["cascade"]["accuracy"] is None and values["last_stage"]["accuracy_drop"] is None


@pytest.mark.slow
def test_assemble_for_agreement_does_not_judge_labels(make_model, mixed, run, tmp_path):
    stages = [word for i in (1, 2) for word in ("--stage", make_model(layers=i, hidden=16 * i, seed=i))]
    code, values, said = run(
        "assemble", *stages, "--data", mixed, "--min-agreement", 0.5, "--output", tmp_path / "made",
        "--engine", "torch", "--json",
    )  # fmt: skip
    assert code == 0 and USABLE in flat(said)
    assert values["metric"] == "agreement" and values["accuracy"] is None
    assert Cascade.from_pretrained(tmp_path / "made").spec.measured is None


@pytest.mark.slow
def test_fit_does_not_judge_the_labels_of_unlabeled_rows(make_model, mixed, run, tmp_path):
    stages = [make_model(layers=i, hidden=16 * i, labels=None) for i in (1, 2)]
    train = write_csv(tmp_path / "train.csv", *reviews(100, seed=3))
    code, _, said = run(
        "fit", "--train", train, "--unlabeled", mixed, "--stage", stages[0], "--stage", stages[1], *SPEED,
        "--output", tmp_path / "made", "--epochs", 1, "--max-length", 32, "--dar-weight", 0,
        "--engine", "torch",
    )  # fmt: skip
    assert code == 0 and USABLE in flat(said)
    spec = json.loads((tmp_path / "made" / "cascade.json").read_text())
    assert spec["provenance"]["rows"]["unlabeled"] == 300


def test_a_named_column_that_is_not_there_is_told_where_no_label_is_needed(saved, run, tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", reviews(40, seed=2)[0], ["positive"])
    words = ("bench", saved, file, "--repeats", 1, "--label-column", "stars", "--json")
    code, values, said = run(*words)
    assert code == 0 and values["cascade"]["accuracy"] is None
    assert "rows.jsonl has no column 'stars'; no label is needed here." in flat(said)
