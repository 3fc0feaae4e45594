"""Bets and detectors equal a slow oracle, and keep their error rates at any time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cascadebert.evaluation.drift_statistics import TOLERANCE
from cascadebert.server.monitoring.drift import BLOCK_SIZE, ShareDriftDetector, dkw_band
from cascadebert.server.monitoring.sequential_tests import (
    TILTS,
    EDetector,
    LossCounts,
    confidence_sequence,
    log_capital,
)

DRAWS = 2000


def counted(losses, weights):
    """Counts of texts added one by one."""
    counts = LossCounts()
    for lost, weight in zip(losses, weights, strict=True):
        counts = counts.add(bool(lost), float(weight))
    return counts


def gain(lost, weight, share, tilt):
    """Factor of the capital for one text, by definition."""
    return math.exp(tilt * weight * lost) / (1 - share + share * math.exp(tilt * weight))


def upper_limit(chance):
    """A probability plus four standard errors of its frequency in the draws."""
    return chance + 4 * np.sqrt(chance * (1 - chance) / DRAWS)


@pytest.fixture
def stream():
    rng = np.random.default_rng(0)
    return rng.random(300) < 0.1, rng.choice([1.0, 2.0, 4.0], 300)


@pytest.mark.parametrize("above", [True, False])
def test_capital_is_the_mean_over_tilts_of_the_products_over_rows(stream, above):
    sign, counts = (1 if above else -1), counted(*stream)
    for share in (0.02, 0.1, 0.5):
        slow = [
            math.prod(gain(lost, weight, share, sign * tilt) for lost, weight in zip(*stream, strict=True))
            for tilt in TILTS
        ]
        assert log_capital(counts, share, above=above) == pytest.approx(math.log(np.mean(slow)), abs=1e-9)


def test_the_interval_holds_the_rates_that_are_not_refuted(stream):
    counts, least = counted(*stream), math.log(1 / 0.05)
    grid = np.linspace(0, 1, 2001)
    unrefuted = [s for s in grid if max(log_capital(counts, s, above=a) for a in (True, False)) < least]
    low, high = confidence_sequence(counts, 0.05)
    assert low == pytest.approx(unrefuted[0], abs=6e-4) and high == pytest.approx(unrefuted[-1], abs=6e-4)
    assert low < counts.rate < high


def test_intervals_at_the_edge():
    assert confidence_sequence(LossCounts(), 0.05) == (0.0, 1.0)
    no_losses, all_losses = (
        confidence_sequence(LossCounts({1.0: 0}, {1.0: 500}), 0.01),
        confidence_sequence(LossCounts({1.0: 500}, {1.0: 500}), 0.01),
    )
    assert no_losses[0] == 0 and 0.005 < no_losses[1] < 0.02
    assert all_losses[1] == 1 and 0.98 < all_losses[0] < 0.995


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("share, above", [(0.02, True), (0.02, False), (0.3, True), (0.3, False)])
def test_a_true_rate_is_ever_refuted_at_most_as_often_as_alpha(share, above, alpha):
    rng, sign = np.random.default_rng(1), (1 if above else -1)
    weights = np.where(np.arange(1000) % 300 < 200, 1.0, 4.0)  # the rate is lowered now and then
    losses = rng.random((DRAWS, 1000)) < share
    capital = np.zeros(losses.shape)
    for tilt in sign * TILTS:
        gains = tilt * weights * losses - np.log1p(share * np.expm1(tilt * weights))
        capital += np.exp(np.cumsum(gains, axis=1)) / len(TILTS)
    assert (capital.max(axis=1) >= 1 / alpha).mean() <= upper_limit(alpha)
    last = log_capital(counted(losses[0], weights), share, above=above)
    assert last == pytest.approx(math.log(capital[0, -1]), abs=1e-9)


def test_a_rate_above_the_level_is_detected_in_about_as_many_texts_as_its_divergence_says():
    rng, level, true = np.random.default_rng(2), 0.02, 0.06
    rows = np.arange(1, 3001)
    delays = []
    for _ in range(40):
        lost = np.cumsum(rng.random(3000) < true)
        counts = (LossCounts({1.0: int(lost[n - 1])}, {1.0: int(n)}) for n in rows[::10])
        refuted = (log_capital(losses, level, above=True) for losses in counts)
        delays.append(next(i for i, log in enumerate(refuted) if log >= math.log(200)) * 10)
    divergence = true * math.log(true / level) + (1 - true) * math.log((1 - true) / (1 - level))
    assert math.log(200) / divergence < np.median(delays) + 10 < 2 * math.log(200) / divergence


def test_weighted_rates_are_those_of_all_texts_when_the_sampling_rate_follows_the_traffic():
    rng = np.random.default_rng(3)
    losing, rate = np.repeat([0.3, 0.1], 2000), np.repeat([0.05, 0.2], 2000)  # more losses, fewer drawn
    rates, plain, totals = [], [], []
    for _ in range(300):
        lost, drawn = rng.random(4000) < losing, rng.random(4000) < rate
        counts = counted(lost[drawn], 1 / rate[drawn])
        rates.append(counts.rate)
        plain.append(lost[drawn].mean())
        totals.append((lost[drawn] / rate[drawn]).sum() / 4000)  # the sum of weights is not known here
    assert np.mean(totals) == pytest.approx(0.2, abs=0.005)
    assert np.mean(rates) == pytest.approx(0.2, abs=0.005)
    assert np.mean(plain) < 0.15


def slow_alarms(rows, shares, signs, run_length):
    """The e-SR detector as it is defined: for each start so far, the product of what came since."""
    products, alarms = [], []
    for step, (losses, count, weight) in enumerate(rows):
        products.append(np.ones((len(shares), len(TILTS))))
        gains = np.array(
            [
                [
                    math.exp(sign * tilt * weight * lost)
                    / (1 - share + share * math.exp(sign * tilt * weight)) ** count
                    for tilt in TILTS
                ]
                for share, sign, lost in zip(shares, signs, losses, strict=True)
            ]
        )
        products = [product * gains for product in products]
        if np.mean(sum(products)) >= run_length:
            alarms.append(step)
            products = []
    return alarms


def test_a_detector_raises_the_alarms_of_the_slow_oracle_at_the_same_steps():
    rng = np.random.default_rng(4)
    lost = rng.random(400) < np.repeat([0.1, 0.4], 200)
    rows = [
        ((float(loss),), 1, weight) for loss, weight in zip(lost, rng.choice([1.0, 2.0], 400), strict=True)
    ]
    detector = EDetector(np.array([0.1]), np.array([True]), 500.0)
    alarms = [i for i, (x, n, w) in enumerate(rows) if detector.step(np.array(x), n, w)]
    assert alarms == slow_alarms(rows, [0.1], [1], 500.0) and len(alarms) >= 2


def test_a_detector_of_several_bounds_raises_the_alarms_of_the_slow_oracle():
    rng = np.random.default_rng(5)
    shares = np.array([0.3, 0.6, 0.2])
    rows = [(rng.binomial(20, [0.25, 0.65, 0.25]).astype(float), 20, 1.0) for _ in range(60)]
    rows += [(rng.binomial(20, [0.25, 0.65, 0.1]).astype(float), 20, 1.0) for _ in range(60)]
    detector = EDetector(shares, np.array([True, True, False]), 1000.0)
    alarms = [i for i, (x, n, w) in enumerate(rows) if detector.step(x, n, w)]
    assert alarms == slow_alarms(rows, shares, [1, 1, -1], 1000.0) and alarms


def test_false_alarms_within_n_rows_are_at_most_n_over_the_run_length():
    rng, raised = np.random.default_rng(6), 0
    for _ in range(400):
        detector = EDetector(np.array([0.05]), np.array([True]), 2000.0)
        lost = (rng.random(200) < 0.05).astype(float)[:, None]
        raised += any(detector.step(loss) for loss in lost)
    assert raised / 400 <= 0.1 + 4 * np.sqrt(0.1 * 0.9 / 400)


def test_a_recent_drop_is_detected_after_any_healthy_time():
    rng = np.random.default_rng(7)
    detector = EDetector(np.array([0.02]), np.array([True]), 1e6)
    assert not any([detector.step(loss) for loss in (rng.random(20_000) < 0.01).astype(float)[:, None]])
    falls = [detector.step(loss) for loss in (rng.random(1000) < 0.1).astype(float)[:, None]]
    assert 50 < falls.index(True) < 400


def test_a_detector_without_bounds_raises_no_alarm():
    assert not EDetector(np.empty(0), np.empty(0, dtype=bool), 10.0).step(np.empty(0))


@pytest.mark.parametrize("stages", [1, 2])
def test_bands_hold_for_thresholds_selected_on_the_same_examples(stages):
    rng, alpha, n = np.random.default_rng(8), 0.2, 300
    grid = np.linspace(0.02, 0.98, 25)
    outside = 0
    for _ in range(500):
        sure = rng.random((stages, n)) <= grid[:, None, None]  # (thresholds, stages, n)
        if stages == 1:
            seen, true = sure[:, 0].mean(axis=1), grid
        else:
            seen, true = (sure[:, None, 0] & sure[None, :, 1]).mean(axis=2), np.outer(grid, grid)
        outside += np.abs(seen - true).max() > dkw_band(n, stages, alpha)
    assert outside / 500 <= alpha + 4 * np.sqrt(alpha * (1 - alpha) / 500)


def traffic(shares, blocks, seed):
    """Rows by bin of blocks of traffic."""
    return np.random.default_rng(seed).multinomial(BLOCK_SIZE, shares, size=blocks)


def test_a_difference_of_the_tolerance_is_never_an_alarm_and_twice_it_beyond_the_band_is():
    true, n = np.array([0.2, 0.3, 0.5]), 1000
    bands = np.full(2, dkw_band(n, 1, 0.01))
    for seed in range(20):
        tune = np.random.default_rng([seed, 9]).multinomial(n, true)
        quiet, loud = (ShareDriftDetector(tune.astype(float), bands) for _ in range(2))
        step = np.array([1, 0, -1])
        near = traffic(true + TOLERANCE * step, 400, seed)
        assert not any(quiet.add(block, BLOCK_SIZE) for block in near)
        far = traffic(true + 2 * quiet.comparison().tolerance[0] * step, 20, seed)
        assert any(loud.add(block, BLOCK_SIZE) for block in far)


@pytest.mark.parametrize("request_rows", [1, 8, 64])
def test_alarms_do_not_depend_on_the_size_of_requests(request_rows):
    bins = np.random.default_rng(10).choice(3, 20 * BLOCK_SIZE, p=[0.5, 0.2, 0.3])
    by_block, by_request = (
        ShareDriftDetector(np.array([200.0, 300.0, 500.0]), np.full(2, 0.05)) for _ in range(2)
    )
    alarms = [[], []]
    for rows, detector, raised in ((BLOCK_SIZE, by_block, alarms[0]), (request_rows, by_request, alarms[1])):
        for start in range(0, len(bins), rows):
            if detector.add(np.bincount(bins[start : start + rows], minlength=3), rows):
                raised.append(detector.n)
    assert alarms[0] == alarms[1] != []
    assert by_block.comparison() == by_request.comparison()


def test_fractions_near_0_and_1_have_one_bound_only():
    shares = ShareDriftDetector(np.array([1.0, 998.0, 1.0]), np.full(2, 0.05))
    assert not any(shares.add(np.array([0, BLOCK_SIZE, 0]), BLOCK_SIZE) for _ in range(1000))
    assert any(shares.add(np.array([BLOCK_SIZE // 2, BLOCK_SIZE // 2, 0]), BLOCK_SIZE) for _ in range(5))
