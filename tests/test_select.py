"""Thresholds: the paper's cost vectors, brute force as the oracle, and loud degenerate cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cascadebert.errors import CascadeError
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.select import (
    InfeasibleTarget,
    TuningArrays,
    cross_validate,
    evaluate_thresholds,
    exit_stages,
    search_thresholds,
    select_thresholds,
    speedup,
)


def random_outputs(stages: int, n: int, *, seed: int = 0):
    """Random confidences; a stage errs less with its confidence and its position."""
    rng = np.random.default_rng(seed)
    confidences = rng.uniform(0.5, 1.0, size=(stages, n))
    skill = np.linspace(0.0, 0.3, stages)[:, None]
    losses = (rng.random((stages, n)) > confidences * 0.7 + skill).astype(float)
    return confidences, losses, np.cumsum(rng.integers(1, 5, size=stages)).astype(float)


def brute_force(confidences, losses, costs, target):
    """Best loss or speed-up over every combination of distinct confidences, row by row."""
    options = [np.concatenate([[0.0], np.unique(row)]) for row in confidences[:-1]]
    best = None
    for point in itertools.product(*options):
        total_loss = total_cost = 0.0
        for row in range(confidences.shape[1]):
            for stage in range(len(confidences)):
                total_cost += costs[stage]
                if stage == len(confidences) - 1 or confidences[stage, row] > point[stage]:
                    total_loss += losses[stage, row]
                    break
        n = confidences.shape[1]
        gain, loss = costs[-1] * n / total_cost, total_loss / n
        if target.speedup is not None:
            key = (loss, -gain) if gain >= target.speedup - 1e-12 else None
        else:
            key = (-gain, loss) if loss <= losses[-1].mean() + target.max_accuracy_drop + 1e-12 else None
        if key is not None and (best is None or key < best):
            best = key
    return best


@pytest.mark.parametrize(
    ("exited", "deferred", "expected"),
    [(377, 31, 4.1212), (349, 59, 3.2126), (321, 87, 2.6323), (284, 124, 2.1250)],
)
def test_layer_speedups_are_those_of_the_authors_own_results(exited, deferred, expected):
    exits = np.repeat([0, 1], [exited, deferred])
    assert round(speedup(exits, np.array([2.0, 12.0])), 4) == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("target", [Target(speedup=1.3), Target(max_accuracy_drop=0.05)])
@pytest.mark.parametrize(("stages", "n"), [(2, 40), (3, 12)])
def test_the_selection_equals_brute_force_over_all_combinations(stages, n, target, seed):
    confidences, losses, costs = random_outputs(stages, n, seed=seed)
    oracle = brute_force(confidences, losses, costs, target)
    try:
        selection = select_thresholds(confidences, losses, costs, target=target)
    except InfeasibleTarget:
        assert oracle is None
        return
    ours = (selection.loss, -selection.speedup) if target.speedup else (-selection.speedup, selection.loss)
    assert ours == pytest.approx(oracle)


def test_four_stages_are_searched_too_and_the_metrics_come_from_routing_the_examples():
    confidences, losses, costs = random_outputs(4, 3000, seed=3)
    selection = select_thresholds(confidences, losses, costs, target=Target(max_accuracy_drop=0.02))
    exits = exit_stages(confidences, selection.thresholds)
    assert selection.loss == losses[exits, np.arange(3000)].mean() <= losses[-1].mean() + 0.02
    assert selection.speedup == pytest.approx(speedup(exits, costs))
    assert sum(selection.exit_rates) == pytest.approx(1.0)


def test_costs_may_differ_between_examples():
    confidences = np.array([[0.9, 0.8, 0.7, 0.6], [1.0] * 4])
    losses = np.array([[0.0, 0, 0, 0], [0, 0, 0, 0]])
    costs = np.array([[1.0, 1, 1, 1], [100, 10, 10, 10]])
    selection = select_thresholds(confidences, losses, costs, target=Target(speedup=3.0))
    assert selection.speedup == pytest.approx(130 / 4)


@pytest.mark.parametrize("target", [Target(min_accuracy=0.6), Target(min_agreement=0.6)])
def test_a_minimum_is_met_by_the_fastest_thresholds_that_reach_it(target):
    confidences, losses, costs = random_outputs(2, 200, seed=1)
    selection = select_thresholds(confidences, losses, costs, target=target)
    every = [select_thresholds(confidences, losses, costs, target=Target(speedup=selection.speedup))]
    assert selection.loss <= 0.4
    assert every[0].loss == pytest.approx(selection.loss)


def test_an_infeasible_speedup_names_the_nearest_one():
    confidences, losses, costs = random_outputs(2, 200)
    with pytest.raises(InfeasibleTarget, match=r"Nearest: --target-speedup") as raised:
        select_thresholds(confidences, losses, costs, target=Target(speedup=50.0))
    nearest = raised.value.nearest
    assert nearest.speedup == pytest.approx(costs[-1] / costs[0])
    again = select_thresholds(
        confidences, losses, costs, target=Target(speedup=float(raised.value.nearest_value))
    )
    assert again.speedup == pytest.approx(nearest.speedup)


def test_an_infeasible_accuracy_names_the_highest_one():
    confidences, losses, costs = random_outputs(2, 200)
    with pytest.raises(InfeasibleTarget, match=r"Nearest: --min-accuracy") as raised:
        select_thresholds(confidences, losses, costs, target=Target(min_accuracy=1.0))
    select_thresholds(
        confidences, losses, costs, target=Target(min_accuracy=float(raised.value.nearest_value))
    )


def test_a_perfect_small_stage_still_defers_texts_of_lower_confidence_than_all_tuning_examples():
    confidences = np.vstack([np.linspace(0.7, 0.99, 500), np.ones(500)])
    selection = select_thresholds(
        confidences, np.zeros((2, 500)), np.array([1.0, 6.0]), target=Target(max_accuracy_drop=0.0)
    )
    assert selection.exit_rates == (1.0, 0.0)
    assert 0.69 < selection.thresholds[0] < 0.7
    assert any("later stages are not needed" in notice for notice in selection.notices)


def test_a_useless_small_stage_gives_a_notice():
    confidences = np.vstack([np.linspace(0.5, 1.0, 500), np.ones(500)])
    losses = np.vstack([np.ones(500), np.zeros(500)])
    selection = select_thresholds(
        confidences, losses, np.array([1.0, 6.0]), target=Target(max_accuracy_drop=0.0)
    )
    assert selection.exit_rates == (0.0, 1.0)
    assert any("no text exits at stage 1" in notice for notice in selection.notices)
    assert any("do not cascade here" in notice for notice in selection.notices)


def test_fewer_than_100_examples_give_a_notice():
    for n, few in ((99, True), (100, False)):
        confidences, losses, costs = random_outputs(2, n)
        selection = select_thresholds(confidences, losses, costs, target=Target(speedup=1.1))
        assert any("examples only" in notice for notice in selection.notices) == few


def test_ties_exit_together():
    confidences = np.array([[0.8] * 6 + [0.6] * 4, [1.0] * 10])
    selection = select_thresholds(
        confidences, np.zeros((2, 10)), np.array([1.0, 6.0]), target=Target(speedup=1.3)
    )
    assert selection.exit_rates[0] in (0.6, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_by_stage_and_example(bad):
    confidences, losses, costs = random_outputs(2, 10)
    confidences[0, 3] = bad
    with pytest.raises(CascadeError, match="stage 1, example 4"):
        select_thresholds(confidences, losses, costs, target=Target(speedup=1.1))


def test_no_examples_and_unequal_shapes_are_rejected():
    confidences, losses, costs = random_outputs(2, 10)
    with pytest.raises(CascadeError, match="n of at least 1"):
        select_thresholds(confidences[:, :0], losses[:, :0], costs, target=Target(speedup=1.1))
    with pytest.raises(CascadeError, match="losses have shape"):
        select_thresholds(confidences, losses[:, :5], costs, target=Target(speedup=1.1))


def test_a_single_stage_needs_no_threshold():
    selection = select_thresholds(
        np.ones((1, 150)), np.zeros((1, 150)), np.array([3.0]), target=Target(speedup=1.0)
    )
    assert selection.thresholds == () and selection.exit_rates == (1.0,)


def test_work_that_stages_share_is_paid_once_and_by_the_last_stage_alone_too():
    confidences = np.array([[0.9, 0.8, 0.2, 0.1], [1.0, 1.0, 1.0, 1.0]])
    losses = np.zeros((2, 4))
    shared, small, large = 1.0, 1.0, 8.0
    costs = np.array([shared + small, large])
    selection = select_thresholds(
        confidences, losses, costs, target=Target(min_accuracy=1.0), last_stage_cost=shared + large
    )
    all_exit = np.array([0, 0, 0, 0])
    assert (
        selection.speedup == speedup(all_exit, costs, shared + large) == (shared + large) / (shared + small)
    )
    half = np.array([0, 0, 1, 1])
    assert speedup(half, costs, shared + large) == (shared + large) / (shared + small + large / 2)


@pytest.mark.slow
def test_cross_validation_removes_the_optimistic_bias_of_the_selection():
    """Over many draws it is close to the loss on fresh rows, and the loss in sample is far below both."""
    cross_validated, in_sample, fresh = [], [], []
    for seed in range(200):
        arrays, target = draw(100, seed), Target(max_accuracy_drop=0.0)
        selection = search_thresholds(arrays, target)
        cross_validated.append(cross_validate(arrays, target))
        in_sample.append(selection.loss)
        fresh.append(evaluate_thresholds(draw(5_000, 1000 + seed), selection.thresholds).loss)
    error = np.std(np.subtract(cross_validated, fresh)) / np.sqrt(200)
    assert np.mean(fresh) - np.mean(in_sample) > 4 * error
    assert abs(np.mean(cross_validated) - np.mean(fresh)) < 3 * error


def draw(n, seed):
    """Three stages whose errors fall with confidence and cost."""
    rng = np.random.default_rng(seed)
    confidences = rng.uniform(size=(3, n))
    chance = np.array([0.6, 0.3, 0.1])[:, None] * (1 - confidences) ** np.array([2, 2, 0])[:, None]
    return TuningArrays(confidences, rng.uniform(size=(3, n)) < chance, np.array([1.0, 3.0, 12.0]))


def test_an_example_plays_no_part_in_the_thresholds_that_it_is_evaluated_with():
    """One error that the search would avoid if it saw it: it is counted nevertheless."""
    losses = np.zeros((2, 20))
    losses[0, -1] = 1
    confidences = np.stack([np.linspace(0, 1, 20), np.ones(20)])
    arrays, target = TuningArrays(confidences, losses, np.array([1.0, 10.0])), Target(max_accuracy_drop=0.0)
    assert search_thresholds(arrays, target).loss == 0
    assert cross_validate(arrays, target) == 1 / 20
    assert cross_validate(arrays.take(np.arange(9)), target) is None


def test_folds_that_cannot_meet_the_target_take_the_nearest_point():
    confidences, losses = np.full((2, 40), 0.5), np.zeros((2, 40))
    losses[:, ::2] = 1
    arrays = TuningArrays(confidences, losses, np.array([1.0, 6.0]))
    assert cross_validate(arrays, Target(min_accuracy=0.5)) == 0.5
