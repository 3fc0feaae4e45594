"""Where a build may write, and whether its result pays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from building import build_quickly
from cascadebert import CascadeError, Target
from cascadebert.training.cascade_builder.finish import verdict
from cascadebert.training.checkpoints import display_name
from cascadebert.types import Interval
from test_build_page import CHOSEN, REPORT


def test_the_current_folder_and_one_beside_a_page_folder_can_be_the_output(make_model, tmp_path, monkeypatch):
    (tmp_path / "fast.html").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for output in (".", "../fast"):
        with pytest.raises(CascadeError, match="at least 200"):  # which is read after the output is checked
            build_quickly(make_model(layers=2, hidden=16), {"text": ["a"]}, Path(output), overwrite=True)


@pytest.mark.parametrize(
    ("target", "changed", "said"),
    [
        (Target(min_agreement=0.98), {"agreement": Interval(0.9, 0.88, 0.97)}, "only 90.0 % of the report"),
        (Target(max_accuracy_drop=0.01), {"accuracy_drop": Interval(0.02, 0.011, 0.03)}, "loses 2.0 points"),
        (Target(min_accuracy=0.95), {"accuracy": 0.93}, "only 93.0 %"),
        (Target(min_accuracy=0.94), {"accuracy": 0.93}, None),
    ],
)
def test_a_target_that_the_report_texts_contradict_does_not_pay(target, changed, said):
    pays, reasons = verdict(CHOSEN, replace(REPORT, **changed), target)
    assert pays == (said is None)
    assert said is None or said in reasons[0]


def test_who_interrupts_a_build_is_told_that_it_resumes(run, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("cascadebert.training.cascade_builder.build.build", interrupted)
    code, _, said = run("build", "m", "--data", "d.csv", "--output", "o")
    assert code == 130 and "The same command resumes" in said


def test_a_model_in_the_current_folder_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "model" / "part").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    assert [display_name(name) for name in (".", "part/..", "../link/", "owner/name")] == [
        "model",
        "model",
        "link",
        "owner/name",
    ]
