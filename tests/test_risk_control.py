"""Guarantees on arrays: they hold as often as promised, and unusual inputs have defined results."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import betainc

from cascadebert.errors import CascadeError
from cascadebert.thresholds.operating_point import Guarantee, GuaranteeResult
from cascadebert.thresholds.risk_control import (
    StageOutputs,
    betting_bound,
    betting_p_values,
    binomial_bound,
    binomial_p_values,
    certify,
    fixed_sequence,
    operating_path,
    point_losses,
    required_sample_size,
    stage_losses,
)

# ---- p-values and bounds

DRAWS = 4000
PAIRED = {
    "rare losses": ([-1, 0, 1], [0.0, 0.99, 0.01]),
    "losses and gains": ([-1, 0, 1], [0.05, 0.89, 0.06]),
    "always a little": ([0.01], [1.0]),
    "half and half": ([-1, 1], [0.495, 0.505]),
}


def most_often(delta: float) -> float:
    """Largest fraction of draws that may pass a false claim: delta and four standard errors."""
    return delta + 4 * np.sqrt(delta * (1 - delta) / DRAWS)


@pytest.mark.parametrize("delta", [0.05, 0.2])
@pytest.mark.parametrize("n", [50, 500])
def test_a_fraction_at_the_level_passes_at_most_as_often_as_delta(n, delta):
    errors = np.random.default_rng(0).binomial(n, 0.05, size=DRAWS)
    assert (binomial_p_values(errors, np.full(DRAWS, n), 0.05) <= delta).mean() <= most_often(delta)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [0.05, 0.2])
@pytest.mark.parametrize("case", PAIRED)
def test_a_mean_at_the_level_passes_at_most_as_often_as_delta(case, delta):
    values, chances = PAIRED[case]
    losses = np.random.default_rng(0).choice(values, p=chances, size=(DRAWS, 400)).astype(np.float64)
    level = float(np.dot(values, chances))
    assert (betting_p_values(losses, level, delta) <= delta).mean() <= most_often(delta)


def test_a_naive_selection_of_the_fastest_point_passes_false_claims_far_more_often():
    rng, level, n = np.random.default_rng(0), 0.05, 500
    errors = rng.binomial(n, 0.051, size=(DRAWS, 20))  # twenty points, for none of which the guarantee holds
    naive = (errors / n <= level).any(axis=1).mean()
    tested = [fixed_sequence(binomial_p_values(row, np.full(20, n), level), 0.05) > 0 for row in errors]
    assert naive > 0.9 and np.mean(tested) <= most_often(0.05)


def test_bounds_are_the_levels_at_which_a_guarantee_is_just_accepted():
    for errors, n in ((0, 100), (3, 200), (40, 100)):
        bound = binomial_bound(errors, n, 0.05)
        at = binomial_p_values(
            np.array([errors] * 2), np.array([n] * 2), np.array([bound + 1e-6, bound - 1e-6])
        )
        assert at[0] <= 0.05 < at[1]
    losses = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], p=[0.01, 0.97, 0.02], size=2000)
    bound = betting_bound(losses, 0.05)
    assert betting_p_values(losses[None], bound, 0.05)[0] <= 0.05
    assert losses.mean() < bound < losses.mean() + 0.02


@pytest.mark.parametrize("errors, n, bound", [(5, 5, 1.0), (0, 1, 0.95)])
def test_bounds_at_the_edge(errors, n, bound):
    assert binomial_bound(errors, n, 0.05) == pytest.approx(bound)


def test_paired_losses_need_fewer_examples_where_they_are_rare():
    rng = np.random.default_rng(2)
    rare = rng.choice([-1.0, 0.0, 1.0], p=[0.005, 0.99, 0.005], size=3000)
    many = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.6, 0.2], size=3000)
    assert betting_bound(rare, 0.05) < 0.01 < betting_bound(many, 0.05)


@pytest.mark.parametrize(
    "guarantee", [Guarantee("min_agreement", 0.98), Guarantee("max_accuracy_drop", 0.02)]
)
def test_the_required_sample_size_is_enough_and_one_less_is_not(guarantee):
    for expected in (0.0, 0.01):
        n = required_sample_size(guarantee, expected, 0.05)
        after, before = (evenly_lost(guarantee, expected, rows) for rows in (n, n - 1))
        assert after <= 0.05 < before
    assert required_sample_size(guarantee, 0.02, 0.05) is None


def evenly_lost(guarantee, expected, n):
    if guarantee.name == "min_agreement":
        return betainc(n - n * expected, n * expected + 1, 1 - guarantee.max_risk)
    losses = np.diff(np.floor(np.arange(n + 1) * expected + 0.5))
    return betting_p_values(losses[None], guarantee.max_risk, 0.05)[0]


def test_the_required_sample_size_passes_with_the_integer_below_the_expected_losses():
    guarantee = Guarantee("min_agreement", 0.98)
    n = required_sample_size(guarantee, 0.01, 0.05)
    assert binomial_p_values(np.floor(n * 0.01), np.asarray(n), guarantee.max_risk) <= 0.05


# ---- paths and certificates

COSTS = {2: np.array([1.0, 6.0]), 3: np.array([1.0, 3.0, 10.0])}
GUARANTEES = (
    Guarantee("min_agreement", 0.95),
    Guarantee("max_accuracy_drop", 0.02),
    Guarantee("min_accuracy", 0.9),
    Guarantee("min_early_exit_accuracy", 0.85),
    Guarantee("max_false_negative_rate", 0.1, "0"),
)


def draw(n: int, seed: int, *, stages: int = 2, labels: int = 2) -> StageOutputs:
    """Examples of random difficulty: later stages err less, and all are more confident on easy ones."""
    rng = np.random.default_rng(seed)
    hard, truth = rng.random(n), rng.integers(0, labels, n)
    confidences, predictions = [], []
    for stage in range(stages):
        last = stage == stages - 1
        right = np.full(n, 0.97) if last else np.clip(1 - hard * (0.9 - 0.3 * stage), 0.3, 0.999)
        confidences.append(np.clip(right + rng.normal(0, 0.05, n), 0.01, 0.999))
        predictions.append(np.where(rng.random(n) < right, truth, (truth + 1) % labels))
    return StageOutputs(np.array(confidences), np.array(predictions), truth, tuple(map(str, range(labels))))


def take(outputs: StageOutputs, indices: np.ndarray) -> StageOutputs:
    """The examples at these indices."""
    labels = None if outputs.labels is None else outputs.labels[indices]
    confidences, predictions = outputs.confidences[:, indices], outputs.predictions[:, indices]
    return StageOutputs(confidences, predictions, labels, outputs.label_names)


@pytest.mark.slow
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("guarantee", GUARANTEES, ids=lambda guarantee: guarantee.name)
def test_no_certified_point_breaks_its_guarantee_more_often_than_delta(stages, guarantee):
    pool, delta, draws = draw(60_000, 1, stages=stages), 0.2, 100
    path = operating_path(draw(800, 2, stages=stages), [guarantee], COSTS[stages], delta)
    true = np.array([point_losses(pool, guarantee, point).mean() for point in path.thresholds])
    rng, broken, gains = np.random.default_rng(3), 0, []
    for _ in range(draws):
        tested = certify(take(pool, rng.integers(0, 60_000, 2000)), path.thresholds, [guarantee], delta=delta)
        broken += bool((true[: tested.accepted] > guarantee.max_risk).any())
        gains.append(path.speedups[tested.accepted - 1] if tested.accepted else 1.0)
    assert broken <= draws * (delta + 4 * np.sqrt(delta * (1 - delta) / draws))
    possible = path.speedups[true <= guarantee.max_risk].max()
    assert np.median(gains) > 0.8 * possible  # and not by rejecting everything


@pytest.mark.slow
def test_a_naive_selection_on_the_certification_set_breaks_its_guarantee_far_more_often():
    guarantee, delta = Guarantee("min_agreement", 0.95), 0.2
    pool = draw(60_000, 1)
    path = operating_path(draw(800, 2), [guarantee], COSTS[2], delta)
    true = np.array([point_losses(pool, guarantee, point).mean() for point in path.thresholds])
    rng, broken = np.random.default_rng(3), 0
    for _ in range(100):
        rows = take(pool, rng.integers(0, 60_000, 2000))
        seen = np.array([point_losses(rows, guarantee, point).mean() for point in path.thresholds])
        broken += bool(true[np.flatnonzero(seen <= guarantee.max_risk).max()] > guarantee.max_risk)
    assert broken > 35


def test_several_guarantees_hold_together_and_divide_delta():
    guarantees = [Guarantee("min_agreement", 0.93), Guarantee("max_accuracy_drop", 0.02)]
    path = operating_path(draw(800, 2), guarantees, COSTS[2], 0.1)
    both = certify(draw(4000, 4), path.thresholds, guarantees, delta=0.1)
    apart = [certify(draw(4000, 4), path.thresholds, [item], delta=0.05) for item in guarantees]
    assert both.accepted == min(result.accepted for result in apart) > 0
    assert [result.guarantee for result in both.results] == guarantees


@pytest.mark.parametrize("guarantee", GUARANTEES, ids=lambda guarantee: guarantee.name)
def test_the_mean_of_the_losses_is_the_quantity_of_the_guarantee(guarantee):
    rows = draw(500, 7, stages=3)
    point = (0.8, 0.7)
    exits = np.where(rows.confidences[0] > 0.8, 0, np.where(rows.confidences[1] > 0.7, 1, 2))
    predictions = rows.predictions[exits, np.arange(500)]
    right, last = predictions == rows.labels, rows.predictions[-1] == rows.labels
    wanted = {
        "min_agreement": (predictions != rows.predictions[-1]).mean(),
        "max_accuracy_drop": last.mean() - right.mean(),
        "min_accuracy": 1 - right.mean(),
        "min_early_exit_accuracy": 1 - right[exits < 2].mean(),
        "max_false_negative_rate": (predictions != 0)[rows.labels == 0].mean(),
    }
    assert point_losses(rows, guarantee, point).mean() == pytest.approx(wanted[guarantee.name])


def test_a_path_goes_from_conservative_to_fast_and_has_early_exits_at_every_point():
    rows = draw(1000, 2, stages=3)
    path = operating_path(rows, [GUARANTEES[0]], COSTS[3], 0.05)
    assert (np.diff(path.speedups) > 0).all() and 10 < len(path.speedups) <= 100
    assert all((rows.confidences[:-1] > point[:, None]).any() for point in path.thresholds)


@pytest.mark.parametrize("labels", [2, 150])
@pytest.mark.parametrize("n", [1, 50])
def test_few_examples_or_many_labels_have_a_defined_result(labels, n):
    rows = draw(400, 1, labels=labels)
    path = operating_path(rows, [GUARANTEES[0]], COSTS[2], 0.05)
    tested = certify(draw(n, 5, labels=labels), path.thresholds, [GUARANTEES[0]], delta=0.05)
    (result,) = tested.results
    assert result.n == n and tested.accepted == 0 and 0 <= result.bound < 1


def test_stages_that_agree_on_every_example_are_certified_at_full_speed():
    rows = draw(400, 1)
    same = StageOutputs(rows.confidences, np.stack([rows.predictions[-1]] * 2), rows.labels, rows.label_names)
    path = operating_path(same, [GUARANTEES[0]], COSTS[2], 0.05)
    tested = certify(same, path.thresholds, [GUARANTEES[0]], delta=0.05)
    assert tested.accepted == len(path.speedups) and path.speedups[-1] == pytest.approx(6.0)


def test_constant_confidences_leave_one_point_where_all_exit():
    rows = draw(400, 1)
    flat = StageOutputs(np.full((2, 400), 0.7), rows.predictions, rows.labels, rows.label_names)
    path = operating_path(flat, [GUARANTEES[0]], COSTS[2], 0.05)
    assert len(path.thresholds) == 1 and path.thresholds[0, 0] < 0.7
    assert certify(flat, path.thresholds, [GUARANTEES[0]], delta=0.05).accepted == 0


def test_a_single_class_works_and_an_unknown_label_is_rejected():
    rows = draw(400, 1)
    one = StageOutputs(rows.confidences, rows.predictions, np.ones(400, dtype=np.int64), rows.label_names)
    missed = Guarantee("max_false_negative_rate", 0.1, "0")
    path = operating_path(one, [missed], COSTS[2], 0.05)
    tested = certify(one, path.thresholds, [missed], delta=0.05)
    assert tested.accepted == 0 and tested.results == (GuaranteeResult(missed, 0, 1.0),)
    with pytest.raises(CascadeError, match="there is no such label"):
        stage_losses(one, Guarantee("max_false_negative_rate", 0.1, "nonsense"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_confidences_that_are_not_finite_are_rejected_by_stage_and_example(bad):
    confidences = np.full((2, 5), 0.5)
    confidences[1, 3] = bad
    with pytest.raises(CascadeError, match="stage 2, example 4"):
        StageOutputs(confidences, np.zeros((2, 5), dtype=np.int64), None, ("a", "b"))


def test_no_examples_and_missing_labels_are_rejected():
    with pytest.raises(CascadeError, match="at least 1"):
        StageOutputs(np.empty((2, 0)), np.empty((2, 0), dtype=np.int64), None, ("a", "b"))
    rows = draw(10, 1)
    with pytest.raises(CascadeError, match="needs labels"):
        stage_losses(StageOutputs(rows.confidences, rows.predictions, None, rows.label_names), GUARANTEES[1])


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, float("nan")])
def test_a_level_outside_zero_to_one_is_rejected(level):
    with pytest.raises(CascadeError, match="between 0 and 1"):
        Guarantee("min_agreement", level)
