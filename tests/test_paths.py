"""Paths and certificates on arrays: they hold as often as was said, and odd inputs have defined results."""

from __future__ import annotations

import numpy as np
import pytest

from cascadebert.errors import CascadeError
from cascadebert.thresholds.certificate import Guarantee
from cascadebert.thresholds.risk_control import (
    StageOutputs,
    certify,
    operating_path,
    point_losses,
    stage_losses,
)

COSTS = {2: np.array([1.0, 6.0]), 3: np.array([1.0, 3.0, 10.0])}
PROMISES = (
    Guarantee("min_agreement", 0.95),
    Guarantee("max_accuracy_drop", 0.02),
    Guarantee("min_accuracy", 0.9),
    Guarantee("min_early_exit_accuracy", 0.85),
    Guarantee("max_false_negative_rate", 0.1, "0"),
)


def drawn(n: int, seed: int, *, stages: int = 2, labels: int = 2) -> StageOutputs:
    """Rows of random difficulty: later stages err less, and all are surer of easy rows."""
    rng = np.random.default_rng(seed)
    hard, truth = rng.random(n), rng.integers(0, labels, n)
    sure, said = [], []
    for stage in range(stages):
        last = stage == stages - 1
        right = np.full(n, 0.97) if last else np.clip(1 - hard * (0.9 - 0.3 * stage), 0.3, 0.999)
        sure.append(np.clip(right + rng.normal(0, 0.05, n), 0.01, 0.999))
        said.append(np.where(rng.random(n) < right, truth, (truth + 1) % labels))
    return StageOutputs(np.array(sure), np.array(said), truth, tuple(map(str, range(labels))))


def some(answers: StageOutputs, rows: np.ndarray) -> StageOutputs:
    """Some of the rows."""
    truth = None if answers.labels is None else answers.labels[rows]
    return StageOutputs(
        answers.confidences[:, rows], answers.predictions[:, rows], truth, answers.label_names
    )


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("guarantee", PROMISES, ids=lambda one: one.name)
def test_no_certified_point_breaks_its_promise_more_often_than_was_said(stages, guarantee):
    pool, delta, draws = drawn(60_000, 1, stages=stages), 0.2, 100
    path = operating_path(drawn(800, 2, stages=stages), [guarantee], COSTS[stages], delta)
    true = np.array([point_losses(pool, guarantee, point).mean() for point in path.thresholds])
    rng, broken, gains = np.random.default_rng(3), 0, []
    for _ in range(draws):
        tested = certify(some(pool, rng.integers(0, 60_000, 2000)), path.thresholds, [guarantee], delta=delta)
        broken += bool((true[: tested.accepted] > guarantee.max_risk).any())
        gains.append(path.speedups[tested.accepted - 1] if tested.accepted else 1.0)
    assert broken <= draws * (delta + 4 * np.sqrt(delta * (1 - delta) / draws))
    possible = path.speedups[true <= guarantee.max_risk].max()
    assert np.median(gains) > 0.8 * possible  # and it does not hold by refusing everything


def test_a_naive_pick_on_the_certify_rows_breaks_its_promise_far_more_often():
    guarantee, delta = Guarantee("min_agreement", 0.95), 0.2
    pool = drawn(60_000, 1)
    path = operating_path(drawn(800, 2), [guarantee], COSTS[2], delta)
    true = np.array([point_losses(pool, guarantee, point).mean() for point in path.thresholds])
    rng, broken = np.random.default_rng(3), 0
    for _ in range(100):
        rows = some(pool, rng.integers(0, 60_000, 2000))
        seen = np.array([point_losses(rows, guarantee, point).mean() for point in path.thresholds])
        broken += bool(true[np.flatnonzero(seen <= guarantee.max_risk).max()] > guarantee.max_risk)
    assert broken > 35


def test_several_promises_hold_together_and_share_delta():
    guarantees = [Guarantee("min_agreement", 0.93), Guarantee("max_accuracy_drop", 0.02)]
    path = operating_path(drawn(800, 2), guarantees, COSTS[2], 0.1)
    both = certify(drawn(4000, 4), path.thresholds, guarantees, delta=0.1)
    apart = [certify(drawn(4000, 4), path.thresholds, [one], delta=0.05) for one in guarantees]
    assert both.accepted == min(one.accepted for one in apart) > 0
    assert len(both.sample_sizes) == len(both.bounds) == 2


@pytest.mark.parametrize("guarantee", PROMISES, ids=lambda one: one.name)
def test_the_mean_of_the_losses_is_what_the_promise_speaks_of(guarantee):
    rows = drawn(500, 7, stages=3)
    point = (0.8, 0.7)
    exits = np.where(rows.confidences[0] > 0.8, 0, np.where(rows.confidences[1] > 0.7, 1, 2))
    said = rows.predictions[exits, np.arange(500)]
    right, last = said == rows.labels, rows.predictions[-1] == rows.labels
    wanted = {
        "min_agreement": (said != rows.predictions[-1]).mean(),
        "max_accuracy_drop": last.mean() - right.mean(),
        "min_accuracy": 1 - right.mean(),
        "min_early_exit_accuracy": 1 - right[exits < 2].mean(),
        "max_false_negative_rate": (said != 0)[rows.labels == 0].mean(),
    }
    assert point_losses(rows, guarantee, point).mean() == pytest.approx(wanted[guarantee.name])


def test_a_path_goes_from_safe_to_fast_and_lets_rows_leave_at_every_point():
    rows = drawn(1000, 2, stages=3)
    path = operating_path(rows, [PROMISES[0]], COSTS[3], 0.05)
    assert (np.diff(path.speedups) > 0).all() and 10 < len(path.speedups) <= 100
    assert all((rows.confidences[:-1] > point[:, None]).any() for point in path.thresholds)


@pytest.mark.parametrize("labels", [2, 150])
@pytest.mark.parametrize("n", [1, 50])
def test_few_rows_or_many_labels_have_a_defined_result(labels, n):
    rows = drawn(400, 1, labels=labels)
    path = operating_path(rows, [PROMISES[0]], COSTS[2], 0.05)
    tested = certify(drawn(n, 5, labels=labels), path.thresholds, [PROMISES[0]], delta=0.05)
    assert tested.sample_sizes == (n,) and tested.accepted == 0 and 0 < tested.bounds[0] <= 1


def test_stages_that_agree_on_every_row_are_certified_at_full_speed():
    rows = drawn(400, 1)
    same = StageOutputs(rows.confidences, np.stack([rows.predictions[-1]] * 2), rows.labels, rows.label_names)
    path = operating_path(same, [PROMISES[0]], COSTS[2], 0.05)
    tested = certify(same, path.thresholds, [PROMISES[0]], delta=0.05)
    assert tested.accepted == len(path.speedups) and path.speedups[-1] == pytest.approx(6.0)


def test_constant_confidences_leave_one_point_where_all_leave():
    rows = drawn(400, 1)
    flat = StageOutputs(np.full((2, 400), 0.7), rows.predictions, rows.labels, rows.label_names)
    path = operating_path(flat, [PROMISES[0]], COSTS[2], 0.05)
    assert len(path.thresholds) == 1 and path.thresholds[0, 0] < 0.7
    assert certify(flat, path.thresholds, [PROMISES[0]], delta=0.05).accepted == 0


def test_one_class_only_is_no_trouble_and_an_unseen_label_cannot_be_promised():
    rows = drawn(400, 1)
    one = StageOutputs(rows.confidences, rows.predictions, np.ones(400, dtype=np.int64), rows.label_names)
    missed = Guarantee("max_false_negative_rate", 0.1, "0")
    path = operating_path(one, [missed], COSTS[2], 0.05)
    tested = certify(one, path.thresholds, [missed], delta=0.05)
    assert tested.accepted == 0 and tested.sample_sizes == (0,) and tested.bounds == (1.0,)
    with pytest.raises(CascadeError, match="there is no such label"):
        stage_losses(one, Guarantee("max_false_negative_rate", 0.1, "nonsense"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_confidences_that_are_no_numbers_are_refused_by_stage_and_row(bad):
    sure = np.full((2, 5), 0.5)
    sure[1, 3] = bad
    with pytest.raises(CascadeError, match="stage 2, example 4"):
        StageOutputs(sure, np.zeros((2, 5), dtype=np.int64), None, ("a", "b"))


def test_no_rows_and_missing_labels_are_refused():
    with pytest.raises(CascadeError, match="at least 1"):
        StageOutputs(np.empty((2, 0)), np.empty((2, 0), dtype=np.int64), None, ("a", "b"))
    rows = drawn(10, 1)
    with pytest.raises(CascadeError, match="needs labels"):
        stage_losses(StageOutputs(rows.confidences, rows.predictions, None, rows.label_names), PROMISES[1])


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, float("nan")])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(CascadeError, match="between 0 and 1"):
        Guarantee("min_agreement", level)
