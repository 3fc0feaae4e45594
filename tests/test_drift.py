"""Drift detection from files to a verdict: inputs, required agreement, notices."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from cascadebert import Cascade, OperatingPoint
from cascadebert.data.dataset import load_examples
from cascadebert.errors import CascadeError, DataError
from cascadebert.evaluation.drift import detect_drift
from cascadebert.evaluation.evaluate import evaluate
from cascadebert.persistence.folder import read_used_rows, update_folder
from cascadebert.thresholds.operating_point import Certificate, Guarantee, GuaranteeResult
from samples import reviews, write_csv


@pytest.fixture(scope="module")
def cascade(saved):
    """Half of the rows leave at its first stage."""
    opened = Cascade.from_pretrained(saved)
    texts = reviews(200, seed=70)[0]
    sure = opened.with_operating_point(OperatingPoint((0.0,))).predict(texts).confidences
    return opened.with_operating_point(OperatingPoint((float(sorted(sure)[100]),)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two labeled files of the same population."""
    root = tmp_path_factory.mktemp("shift")
    return [write_csv(root / f"{seed}.csv", *reviews(300, seed=seed)) for seed in (77, 78)]


def certified(cascade, *guarantees):
    """The same cascade as if these had been promised of it."""
    point = cascade.operating_point
    made = Certificate(
        tuple(GuaranteeResult(one, 100, 0.5) for one in guarantees), 0.05, 100, (), "torch", "float32", "cpu",
        "rows.csv", "", cascade.temperatures, "",
    )  # fmt: skip
    return cascade.with_operating_point(replace(point, certificate=made))


def test_its_figures_are_those_of_predict_and_evaluate(cascade, files):
    found, _ = detect_drift(cascade, *files)
    report = evaluate(cascade, files[1])
    assert [stage.exit_rate.new.value for stage in found.stages] == list(report.exit_rates)
    texts = load_examples(files[1]).texts
    last = cascade.stages[-1].predict(texts).label_ids
    assert found.agreement.new.value == (cascade.predict(texts).label_ids == last).mean()
    assert (found.n_reference, found.n_new) == (300, 300)


def test_labels_are_not_needed(cascade, files, tmp_path):
    plain = tmp_path / "plain.csv"
    plain.write_text("text\n" + "\n".join(load_examples(files[1]).texts) + "\n", "utf-8")
    assert detect_drift(cascade, files[0], plain)[0] == detect_drift(cascade, *files)[0]


def test_the_level_is_the_one_asked_for_else_the_certificates_else_that_of_the_reference(cascade, files):
    promised = certified(cascade, Guarantee("min_accuracy", 0.6), Guarantee("min_agreement", 0.3))
    requested, _ = detect_drift(promised, *files, min_agreement=0.2)
    kept, notices = detect_drift(promised, *files)
    free, _ = detect_drift(cascade, *files)
    assert (requested.level.value, requested.level.origin) == (0.2, "requested")
    assert (kept.level.value, kept.level.origin) == (
        0.3,
        "certificate",
    ) and "by the certificate" in kept.reasons[0]
    assert free.level.origin == "reference"
    assert free.level.value == pytest.approx(free.agreement.reference.value - 0.05)
    assert notices == (
        "the folder also guarantees accuracy of at least 0.6; that can only be tested with labels.",
    )


def test_the_same_file_twice_is_said_and_is_never_a_no(cascade, files):
    for level in (None, 0.999):
        found, notices = detect_drift(cascade, files[0], files[0], min_agreement=level)
        assert found.verdict == "inconclusive" and found.same_rows and "same examples" in found.headline
        assert "300 of the 300 new examples are in the reference too." in notices


def test_repeated_rows_and_rows_that_were_trained_on_are_said(cascade, files, tmp_path):
    doubled = load_examples(files[1])
    doubled = replace(doubled, texts=[*doubled.texts, *doubled.texts], labels=None)
    _, notices = detect_drift(cascade, files[0], doubled)
    assert len(notices) == 1 and "300 of the 600 new examples repeat an earlier one" in notices[0]
    shutil.copytree(cascade.path, tmp_path / "trained")
    trained = load_examples(files[0]).hashes()[:40]
    update_folder(tmp_path / "trained", cascade.spec, replace(read_used_rows(cascade.path), train=trained))
    _, notices = detect_drift(replace(cascade, path=tmp_path / "trained"), *files)
    assert len(notices) == 1 and "40 of the 300 reference examples were trained on" in notices[0]


def test_one_row_gives_no_verdict(cascade, files, tmp_path):
    one = write_csv(tmp_path / "one.csv", *reviews(1, seed=3))
    assert detect_drift(cascade, files[0], one)[0].verdict == "inconclusive"


def test_an_empty_file_and_pairs_for_single_texts_are_refused_by_name(cascade, files, tmp_path):
    (tmp_path / "empty.csv").write_text("text\n")
    with pytest.raises(DataError, match=r"empty\.csv is empty"):
        detect_drift(cascade, files[0], tmp_path / "empty.csv")
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2\na film,a song\n")
    with pytest.raises(DataError, match=r"pairs\.csv: .*made for single texts, got pairs"):
        detect_drift(cascade, files[0], tmp_path / "pairs.csv")


def test_numbers_out_of_range_are_refused_before_a_file_is_read(cascade):
    for wrong in ({"min_agreement": 1.0}, {"tolerance": -1}, {"confidence_level": 1}):
        with pytest.raises(CascadeError, match="such as"):
            detect_drift(cascade, "nowhere.csv", "nowhere.csv", **wrong)
