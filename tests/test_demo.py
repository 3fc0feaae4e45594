"""The demo on fewer rows: the whole path, its files and its contract. Its promises: benchmarks/demo.py."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from cascadebert import Cascade
from cascadebert.demo import run as demo_run
from cascadebert.demo.task import LEVELS, generate, vocabulary


@pytest.mark.slow
def test_the_demo_writes_a_cascade_and_a_picture_and_reports_what_it_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_run, "TRAIN_SIZE", 700)
    monkeypatch.setattr(demo_run, "TEST_SIZE", 300)
    result = demo_run.demo(tmp_path / "demo", seed=3)
    assert set(asdict(result)) >= {
        "small_accuracy", "large_accuracy", "cascade_accuracy", "measured_speedup", "flops_speedup",
        "seconds", "output",
    }  # fmt: skip
    assert "The task is generated" in result.description
    assert (tmp_path / "demo" / "curve.svg").read_text().lstrip().startswith("<?xml")
    cascade = Cascade.from_pretrained(tmp_path / "demo")
    assert cascade.predict(["the plot was hardly dull ."]).labels[0] in ("negative", "positive")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]


def test_the_task_is_balanced_at_every_level_and_its_level_is_not_told():
    rows = generate(6000, seed=11)
    for level in range(len(LEVELS)):
        share = [row.label == "positive" for row in rows if row.level == level]
        assert 0.42 < sum(share) / len(share) < 0.58
    assert not any(name in vocabulary() for name in ("plain", "negated", "scope", "contrast"))
