"""A false claim passes at most as often as was said; without a correction it passes nearly always."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import betainc

from cascadebert.thresholds.certificate import Guarantee
from cascadebert.thresholds.risk_control import (
    betting_bound,
    betting_p_values,
    binomial_bound,
    binomial_p_values,
    fixed_sequence,
    required_sample_size,
)

DRAWS = 4000
PAIRED = {
    "rare losses": ([-1, 0, 1], [0.0, 0.99, 0.01]),
    "losses and gains": ([-1, 0, 1], [0.05, 0.89, 0.06]),
    "always a little": ([0.01], [1.0]),
    "half and half": ([-1, 1], [0.495, 0.505]),
}


def most(delta: float) -> float:
    """Share of draws that may pass a false claim: delta and four standard errors."""
    return delta + 4 * np.sqrt(delta * (1 - delta) / DRAWS)


@pytest.mark.parametrize("delta", [0.05, 0.2])
@pytest.mark.parametrize("n", [50, 500])
def test_a_share_at_the_level_passes_at_most_as_often_as_delta(n, delta):
    errors = np.random.default_rng(0).binomial(n, 0.05, size=DRAWS)
    assert (binomial_p_values(errors, np.full(DRAWS, n), 0.05) <= delta).mean() <= most(delta)


@pytest.mark.parametrize("delta", [0.05, 0.2])
@pytest.mark.parametrize("case", PAIRED)
def test_a_mean_at_the_level_passes_at_most_as_often_as_delta(case, delta):
    values, chances = PAIRED[case]
    losses = np.random.default_rng(0).choice(values, p=chances, size=(DRAWS, 400)).astype(np.float64)
    level = float(np.dot(values, chances))
    assert (betting_p_values(losses, level, delta) <= delta).mean() <= most(delta)


def test_a_naive_choice_of_the_fastest_point_that_looks_good_passes_false_claims_far_more_often():
    rng, level, n = np.random.default_rng(0), 0.05, 500
    errors = rng.binomial(n, 0.051, size=(DRAWS, 20))  # twenty points, none of which keeps the promise
    naive = (errors / n <= level).any(axis=1).mean()
    tested = [fixed_sequence(binomial_p_values(row, np.full(20, n), level), 0.05) > 0 for row in errors]
    assert naive > 0.9 and np.mean(tested) <= most(0.05)


def test_bounds_are_the_levels_at_which_a_promise_is_just_accepted():
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


def test_paired_losses_need_fewer_rows_where_they_are_rare():
    rng = np.random.default_rng(2)
    rare = rng.choice([-1.0, 0.0, 1.0], p=[0.005, 0.99, 0.005], size=3000)
    many = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.6, 0.2], size=3000)
    assert betting_bound(rare, 0.05) < 0.01 < betting_bound(many, 0.05)


@pytest.mark.parametrize(
    "guarantee", [Guarantee("min_agreement", 0.98), Guarantee("max_accuracy_drop", 0.02)]
)
def test_rows_needed_are_enough_and_one_less_is_not(guarantee):
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


def test_rows_needed_for_an_expected_share_pass_with_the_whole_number_of_losses_below_it():
    guarantee = Guarantee("min_agreement", 0.98)
    n = required_sample_size(guarantee, 0.01, 0.05)
    assert binomial_p_values(np.floor(n * 0.01), np.asarray(n), guarantee.max_risk) <= 0.05
