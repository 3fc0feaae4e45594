"""The report page of tiny cascades: self-contained, and about unused examples only."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cascadebert import Target, assemble
from cascadebert.data.dataset import load_examples
from cascadebert.errors import DataError
from cascadebert.evaluation.report.build import allowed_drop, build_report, unused_examples
from cascadebert.evaluation.report.html import render_report, write_report
from cascadebert.inference.cascade import Cascade
from cascadebert.persistence.folder import read_used_rows
from cascadebert.thresholds.operating_point import (
    Certificate,
    Guarantee,
    GuaranteeResult,
    OperatingPoint,
    TuningMetrics,
)
from cascadebert.training.baseline import opened_baseline
from samples import reviews, write_csv

BASELINE = "the baseline classifier (bert-2-32-9-negative-positive)"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Notes what stands open, what is loaded from elsewhere, and names given twice."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.names, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag, attrs):
        self._note(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def _note(self, attrs):
        for name, value in attrs:
            if name.split(":")[-1] in ("src", "href", "data", "action") and not value.startswith("#"):
                self.loaded.append(value)
            if name == "id":
                self.names.append(value)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A labeled file that no cascade has seen."""
    return write_csv(tmp_path_factory.mktemp("rows") / "rows.csv", *reviews(150, seed=77))


@pytest.fixture(scope="module")
def judged(saved, rows, make_model):
    """A verdict on a saved cascade beside a classifier of its own."""
    rival = make_model(layers=2, hidden=32, seed=9)
    cascade = Cascade.from_pretrained(saved)
    with opened_baseline(rival, cascade) as baseline:
        return build_report(cascade, rows, baseline=baseline, repeats=2)


@pytest.mark.slow
def test_the_page_is_complete_in_itself(judged):
    page = render_report(judged)
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == [] and reader.loaded == []
    assert len(reader.names) == len(set(reader.names))
    assert {"title", "svg", "table", "main"} <= reader.tags and "script" not in reader.tags
    assert not re.search(r"@import|https?:|url\((?!#)", page)
    assert page.count('role="img" aria-label="') == page.count("<svg")


def test_the_page_tells_what_the_verdict_holds_and_no_text_of_any_row(judged, rows):
    page = render_report(judged)
    assert judged.verdict.decision in page.lower()
    for reason in judged.verdict.reasons:
        assert reason[1:].replace("'", "&#39;") in page
    for wanted in (
        "150 of rows.csv",
        "stage 1 alone",
        "stage 2 alone",
        "negative",
        "openvino",
        "torch float32",
    ):
        assert wanted in page
    assert not [text for text in load_examples(rows).texts if text in page]


def test_names_from_outside_cannot_add_markup_to_the_page(judged):
    evil = "<script>alert('x')"
    cascade, verdict = replace(judged.cascade, path=Path(evil)), judged.verdict
    groups = (replace(verdict.groups[0], name=evil), *verdict.groups[1:])
    alternatives = (*verdict.alternatives[:-1], replace(verdict.alternatives[-1], name=evil))
    page = render_report(
        replace(
            judged,
            cascade=cascade,
            source=evil,
            verdict=replace(verdict, groups=groups, alternatives=alternatives),
        )
    )
    assert "<script" not in page and page.count("&lt;script&gt;") >= 4


def test_a_classifier_beside_the_cascade_is_scored_and_timed_on_the_same_rows(judged):
    *_, rival = judged.verdict.alternatives
    assert [one.name for one in judged.verdict.alternatives] == ["stage 1 alone", BASELINE]
    assert rival.seconds > 0 and rival.range[0] <= rival.measured_speedup <= rival.range[1]
    assert judged.verdict.repeats == 2 and judged.verdict.n_timed == 150
    assert any(
        "the training data of the baseline classifier is not known" in notice for notice in judged.notices
    )


@pytest.mark.slow
def test_rows_that_made_the_cascade_are_left_out_and_that_is_said(run, saved, tmp_path):
    used = load_examples(saved.parent / "data.csv")
    texts, labels = reviews(120, seed=99)
    fresh = [i for i, text in enumerate(texts) if text not in set(used.texts)]
    mixed = write_csv(
        tmp_path / "mixed.csv",
        [*used.texts, *(texts[i] for i in fresh)],
        [*used.labels, *(labels[i] for i in fresh)],
    )
    page = tmp_path / "page.html"
    code, values, said = run("evaluate", saved, mixed, "--report", page, "--json")
    assert code == 0 and values["n"] == values["verdict"]["n"] == len(fresh)
    assert values["overlap"]["tune"] == 160
    assert f"160 of {160 + len(fresh)} examples left out" in said
    assert f"160 of {160 + len(fresh)} examples left out" in page.read_text("utf-8")
    code, _, said = run("evaluate", saved, saved.parent / "data.csv", "--report", page)
    assert code == 2 and "all of its 160 examples were used" in said


def test_rows_that_made_the_cascade_beside_it_are_left_out_too(saved, rows, tmp_path):
    shutil.copytree(saved, tmp_path / "other")
    examples = load_examples(rows)
    used = read_used_rows(saved)
    marks = {name: getattr(used, name) for name in ("train", "tune", "certify", "consumed")}
    marks["consumed"] = examples.hashes()[:30]
    np.savez(tmp_path / "other" / "rows.npz", **marks)
    judged, other = Cascade.from_pretrained(saved), Cascade.from_pretrained(tmp_path / "other")
    left, overlap, notices = unused_examples(examples, judged, other)
    assert len(left) == 120 and overlap == {"train": 0, "tune": 0, "certify": 0}
    assert notices[0].startswith("30 of 150 examples left out")


@pytest.mark.slow
def test_evaluate_with_a_report_prints_the_verdict_and_puts_it_in_the_json_line(run, saved, rows, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("of yesterday")
    code, values, said = run("evaluate", saved, rows, "--report", page, "--json")
    verdict = values["verdict"]
    assert code == 0 and f"Verdict: {verdict['decision']}." in said
    assert {"accuracy", "macro_f1", "ece", "stages", "overlap", "uncertified_reason", "report"} <= set(values)
    assert {
        "reasons",
        "last_stage",
        "alternatives",
        "random_routing",
        "groups",
        "oracle",
        "high_confidence_errors",
        "calibration",
    } <= set(verdict)
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.slow
@pytest.mark.parametrize("threshold, stage", [(1.0, 2), (0.0, 1)])
def test_a_cascade_that_asks_one_stage_alone_is_told_not_to_be_one(saved, rows, threshold, stage):
    cascade = Cascade.from_pretrained(saved).with_operating_point(OperatingPoint((threshold,)))
    judged = build_report(cascade, rows, repeats=1)
    assert judged.verdict.decision == "do not cascade" and judged.cascade.uncertified_reason is not None
    assert judged.verdict.reasons[0] == f"stage {stage} predicts every text: use it alone."
    page = render_report(judged)
    assert "Do not cascade" in page and "Uncertified: its thresholds were set by hand" in page


def test_a_cascade_of_random_stages_is_not_worth_it(judged):
    assert judged.verdict.decision != "cascade"


@pytest.mark.slow
def test_against_alone_judges_without_a_page(run, saved, rows):
    code, values, said = run("evaluate", saved, rows, "--baseline", saved, "--json")
    assert code == 0 and values["report"] is None
    itself = values["verdict"]["alternatives"][-1]
    assert itself["name"] == "the baseline cascade (cascade)" and itself["gain"]["value"] == 0
    assert "Verdict: " in said and values["verdict"]["decision"] != "cascade"


@pytest.mark.slow
def test_a_classifier_is_exported_aside_to_run_as_the_cascade_runs(run, make_model, rows, tmp_path):
    texts, labels = reviews(120, seed=5)
    stages = [make_model(layers=i, hidden=16 * i, seed=i) for i in (1, 3)]
    tune = write_csv(tmp_path / "tune.csv", texts, labels)
    assemble(stages, data=tune, target=Target(speedup=1.5), output=tmp_path / "c", precision="float32")
    alone = make_model(layers=3, hidden=48, seed=3)
    before = sorted(path.name for path in alone.iterdir())
    code, values, said = run("evaluate", tmp_path / "c", rows, "--baseline", alone, "--json")
    verdict = values["verdict"]
    assert code == 0 and "ran in" not in said
    assert verdict["alternatives"][-1]["accuracy"] == verdict["last_stage"]["accuracy"]
    assert sorted(path.name for path in alone.iterdir()) == before


def test_a_classifier_with_other_labels_is_refused(run, saved, rows, make_model):
    other = make_model(layers=1, hidden=16, labels=("bad", "good"))
    code, _, said = run("evaluate", saved, rows, "--baseline", other)
    assert code == 2 and "labels" in said and "negative" in said


@pytest.mark.parametrize("name", ["page.txt", "nowhere/page.html"])
def test_a_page_that_cannot_be_written_is_refused_before_anything_runs(run, saved, rows, tmp_path, name):
    code, _, said = run("evaluate", saved, rows, "--report", tmp_path / name)
    assert code == 2 and "error:" in said and list(tmp_path.iterdir()) == []


def test_a_page_is_not_left_half_written(judged, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"ending in \.html"):
        write_report(tmp_path / "page", judged)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "target, drop",
    [(Target(max_accuracy_drop=0.005), 0.005), (Target(speedup=2.0), None), (None, None)],
)
def test_the_allowed_drop_is_that_of_the_target(target, drop):
    expected = TuningMetrics(10, "accuracy", 0.9, 0.9, (0.5, 0.5), "flops", 2.0, target)
    assert allowed_drop(OperatingPoint((0.5,), expected)) == drop
    assert allowed_drop(OperatingPoint((0.5,))) is None


def test_the_allowed_drop_of_a_certified_point_is_that_of_its_guarantee():
    guarantees = Guarantee("min_accuracy", 0.9), Guarantee("max_accuracy_drop", 0.01)
    results = tuple(GuaranteeResult(guarantee, 100, 0.5) for guarantee in guarantees)
    certificate = Certificate(
        results, 0.05, 100, (), "torch", "float32", "cpu", "rows.csv", "", (1.0, 1.0), ""
    )
    assert allowed_drop(OperatingPoint((0.5,), None, certificate)) == 0.01
    agreement = replace(certificate, guarantees=(GuaranteeResult(Guarantee("min_agreement", 0.9), 100, 0.5),))
    assert allowed_drop(OperatingPoint((0.5,), None, agreement)) is None
