"""The verdict on constructed measurements with a known decision."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from cascadebert.errors import CascadeError
from cascadebert.evaluation.cost_model import RowCosts
from cascadebert.evaluation.report.analysis import length_buckets
from cascadebert.evaluation.report.verdict import (
    Alternative,
    ReportInputs,
    WallClock,
    compute_verdict,
    decide,
    summary,
)
from cascadebert.types import Interval

SURE, UNSURE = 3.0, 0.2


def evidence(right, sure, *, clock=None, labels=None, **changes):
    """Two stages on n rows with two labels: which answers are right, and where stage 1 is sure.

    Stage 1 takes 1 second a row, stage 2 takes 4.
    """
    right, sure = np.asarray(right, dtype=bool), np.asarray(sure, dtype=bool)
    n = right.shape[1]
    labels = np.arange(n) % 2 if labels is None else np.asarray(labels)
    said = np.where(right, labels, 1 - labels)
    strength = np.stack([np.where(sure, SURE, UNSURE), np.full(n, SURE)])
    logits = np.eye(2, dtype=np.float32)[said] * strength[..., None].astype(np.float32)
    seconds = np.repeat([[1.0], [4.0]], n, axis=1)
    if clock is None:
        mine = float(seconds[0].sum() + seconds[1][~sure].sum())
        clock = WallClock(
            n, np.array([0.99, 1.0, 1.01]) * mine, seconds.sum(axis=1)[:, None] * np.ones((1, 3))
        )
    given = ReportInputs(
        logits=logits,
        temperatures=(1.0, 1.0),
        thresholds=(0.9,),
        labels=labels,
        label_names=("bad", "good"),
        lengths=np.arange(n) % 7 + 3,
        seconds=RowCosts(seconds, 4.0),
        clock=clock,
    )
    return replace(given, **changes)


def known(n=1000, wrong=0.3, last_wrong=0.1):
    """Stage 1 errs on some rows, two thirds of which stage 2 mends; it is unsure of its errors alone."""
    place = np.arange(n) / n
    return np.stack([place >= wrong, place >= last_wrong]), place >= wrong


def test_a_confidence_that_knows_its_errors_makes_a_cascade_worth_it():
    found = compute_verdict(evidence(*known()))
    assert found.decision == "cascade"
    assert found.accuracy == 0.9 and found.last_stage.gain == Interval(0.0, 0.0, 0.0)
    assert found.last_stage.measured_speedup == pytest.approx(4 / 2.2)
    assert found.both_wrong == 0.1 and found.exit_rates == (0.7, 0.3)
    assert found.random_routing.accuracy < found.accuracy and found.random_routing.fraction == pytest.approx(
        0.6
    )
    assert found.high_confidence_errors.regressions == 0 and found.high_confidence_errors.above_median is None


@pytest.mark.slow
def test_a_confidence_drawn_by_chance_is_beaten_by_a_coin():
    right, _ = known(4000)
    sure = np.random.default_rng(0).random(4000) < 0.7
    found = compute_verdict(evidence(right, sure))
    assert found.decision == "do not cascade"
    assert "random routing between stage 1 alone and stage 2 alone takes as long" in found.reasons[0]


def test_slower_than_the_last_stage_in_every_run_means_no():
    right, sure = known()
    clock = WallClock(1000, np.array([5.0, 5.1]), np.array([[1.0, 1.0], [4.0, 4.9]]))
    found = compute_verdict(evidence(right, sure, clock=clock))
    assert found.decision == "do not cascade" and "not faster than its last stage alone" in found.reasons[0]


def test_now_faster_and_now_slower_cannot_be_told():
    right, sure = known()
    clock = WallClock(1000, np.array([4.0, 4.1]), np.array([[1.0, 1.0], [4.2, 3.9]]))
    assert compute_verdict(evidence(right, sure, clock=clock)).decision == "inconclusive"


def test_a_smaller_stage_that_is_as_good_means_no():
    right, sure = known()
    found = compute_verdict(evidence(np.stack([right[1], right[1]]), sure))
    assert found.decision == "do not cascade" and found.reasons[0].startswith(
        "stage 1 alone is at least as fast"
    )


@pytest.mark.slow
def test_one_stage_that_answers_every_row_means_no():
    right, _ = known()
    for sure, name in ((np.ones(1000), "stage 1"), (np.zeros(1000), "stage 2")):
        found = compute_verdict(evidence(right, sure))
        assert found.decision == "do not cascade"
        assert found.reasons[0] == f"{name} predicts every text: use it alone."


@pytest.mark.slow
def test_a_rival_that_is_as_fast_and_as_good_means_no_and_a_slow_or_poor_one_does_not():
    given = evidence(*known())
    labels = given.labels
    half = np.where(np.arange(1000) < 500, 1 - labels, labels)

    def against(said, seconds):
        clock = replace(given.clock, baseline=np.full(3, seconds))
        return compute_verdict(replace(given, clock=clock, baseline=("rival", said)))

    assert against(labels, 2000.0).decision == "do not cascade"
    assert against(labels, 9000.0).decision == "cascade"
    poor = against(half, 2000.0)
    assert poor.decision == "cascade" and poor.alternatives[-1].gain.low > 0
    assert [one.name for one in poor.alternatives] == ["stage 1 alone", "rival"]


@pytest.mark.slow
def test_losing_more_than_was_allowed_means_no():
    right, sure = known()
    sure = sure | (np.arange(1000) >= 250)  # a quarter of what stage 2 would mend leaves early
    assert compute_verdict(evidence(right, sure, allowed_drop=0.2)).decision == "cascade"
    found = compute_verdict(evidence(right, sure, allowed_drop=0.01))
    assert found.decision == "do not cascade" and "exceeds the allowed 1 points" in found.reasons[-1]


def test_a_small_lead_on_few_rows_cannot_be_told_from_none():
    contender = Alternative("stage 1 alone", 0.8, Interval(0.01, -0.02, 0.04), 1.0, 0.5, (0.4, 0.6))
    last = Alternative("stage 2 alone", 0.81, Interval(0.0, -0.01, 0.01), 4.0, 2.0, (1.9, 2.1))
    assert decide(500, (0.5, 0.5), last, [contender], None)[0] == "inconclusive"
    sure = replace(contender, gain=Interval(0.03, 0.01, 0.05))
    assert decide(500, (0.5, 0.5), last, [sure], None)[0] == "cascade"
    assert decide(99, (0.5, 0.5), last, [sure], None)[0] == "inconclusive"


def test_the_oracle_passes_on_exactly_the_rows_whose_label_would_change():
    right, _ = known()
    sure = np.arange(1000) < 500  # sure of all its errors, unsure of half that it has right
    found = compute_verdict(evidence(right, sure))
    oracle = found.oracle
    assert oracle.accuracy == 0.9 and oracle.exit_rates == (0.8, 0.2)
    assert oracle.expected_speedup == pytest.approx(4 / (1 + 0.2 * 4))
    assert oracle.cascade_expected_speedup == pytest.approx(4 / (1 + 0.5 * 4))
    assert (oracle.over_deferred, oracle.early_mistakes) == (0.5, 0.2)
    assert oracle.best_of_stages == 0.9


def test_lost_answers_are_shared_out_over_classes_lengths_and_stages():
    right = np.ones((2, 400), dtype=bool)
    labels = np.arange(400) % 2
    right[0] = labels == 0  # stage 1 is wrong on every "good" row
    found = compute_verdict(evidence(right, np.arange(400) < 100, labels=labels))
    by_name = {one.name: one for one in found.groups}
    assert [by_name[name].fraction_of_regressions for name in ("bad", "good")] == [0.0, 1.0]
    assert by_name["good"].regressions == 50 and by_name["good"].accuracy == 0.75
    assert by_name["exit at stage 1"].fraction_of_regressions == 1.0
    for kind in ("class", "length", "stage"):
        here = [one for one in found.groups if one.kind == kind]
        assert sum(one.n for one in here) == 400
        assert sum(one.fraction_of_regressions for one in here) == pytest.approx(1)
    assert "Of the regressions 100.0 % are in class 'good' (50.0 % of the examples)" in " ".join(
        summary(found)
    )


def test_confident_mistakes_are_counted_by_how_sure_they_were():
    right = np.ones((2, 100), dtype=bool)
    right[0, :10] = False
    given = evidence(right, np.ones(100))
    logits = given.logits.copy()
    logits[0] *= np.linspace(2.0, 1.0, 100)[:, None]  # the wrong ones are the surest
    found = compute_verdict(replace(given, logits=logits)).high_confidence_errors
    assert (found.early_exits, found.regressions, found.corrections, found.above_median) == (100, 10, 0, 1.0)
    assert [count for count, _ in found.deciles] == [10] * 10
    assert [regressions for _, regressions in found.deciles] == [0] * 9 + [10]


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("case", ["all right", "all wrong", "one class", "early", "late"])
def test_degenerate_rows_are_judged_too(n, case):
    right = np.zeros((2, n)) if case == "all wrong" else np.ones((2, n))
    sure = np.zeros(n) if case == "late" else np.ones(n) if case == "early" else np.arange(n) % 2
    labels = np.zeros(n, dtype=np.int64) if case == "one class" else None
    found = compute_verdict(evidence(right, sure, labels=labels))
    assert found.decision != "cascade"
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["n"] == n
    assert summary(found)[0].startswith(f"Verdict: {found.decision}. ")


def test_no_row_at_all_is_refused():
    with pytest.raises(CascadeError, match="needs labeled examples"):
        compute_verdict(
            evidence(np.ones((2, 0)), np.ones(0), clock=WallClock(1, np.ones(1), np.ones((2, 1))))
        )


def test_equal_lengths_share_a_bucket():
    which, names = length_buckets(np.full(9, 12))
    assert set(which.tolist()) == {0} and names[0] == "up to 12 tokens"


def test_stages_timed_only_on_some_rows_are_told_per_row():
    right, sure = known()
    clock = WallClock(10, np.full(2, 20.0), np.array([[10.0, 10.0], [40.0, 40.0]]))
    found = compute_verdict(evidence(right, sure, clock=clock))
    assert (found.seconds, found.last_stage.seconds, found.n_timed) == (2.0, 4.0, 10)
