"""Calibration and risk-coverage against figures worked out by hand and oracles written as loops."""

from __future__ import annotations

import numpy as np
import pytest

from cascadebert.evaluation.metrics import (
    bin_indices,
    brier_score,
    calibration_error,
    expected_calibration_error,
    reliability_bins,
    risk_coverage,
)
from cascadebert.evaluation.report.analysis import analyze_calibration
from cascadebert.thresholds.confidence import softmax


def calibrated(n, seed):
    """Confidences, and answers that are right as often as these say."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.5, 1.0, n)
    return sure, rng.random(n) < sure


def test_equal_mass_error_of_four_rows_in_two_bins_is_that_worked_out_by_hand():
    sure, right = np.array([0.9, 0.6, 0.8, 0.7]), np.array([True, False, True, True])
    # lower bin 0.6, 0.7: mean 0.65, half right; upper bin 0.8, 0.9: mean 0.85, all right
    assert expected_calibration_error(sure, right, 2, equal="mass") == pytest.approx(0.5 * 0.15 + 0.5 * 0.15)
    assert expected_calibration_error(sure, right, 2) == pytest.approx(0.0)  # all in the upper half


def test_bins_of_equal_mass_are_even_where_no_confidences_tie():
    rng = np.random.default_rng(0)
    assert np.bincount(bin_indices(rng.random(150), 15, "mass")).tolist() == [10] * 15


def test_rows_of_equal_confidence_share_a_bin_whatever_their_order():
    sure, right = np.repeat([0.9, 0.6], [7, 3]), np.arange(10) % 2 == 0
    shuffled = np.random.default_rng(1).permutation(10)
    one = expected_calibration_error(sure, right, 4, equal="mass")
    other = expected_calibration_error(sure[shuffled], right[shuffled], 4, equal="mass")
    assert one == pytest.approx(other)
    assert len(np.unique(bin_indices(np.full(10, 0.7), 4, "mass"))) == 1


@pytest.mark.parametrize("equal", ["width", "mass"])
def test_the_diagram_and_the_error_tell_the_same(equal):
    sure, right = calibrated(500, seed=2)
    bins = reliability_bins(sure, right, equal=equal)
    gaps = np.abs(np.array(bins.accuracy) - bins.confidence)
    assert sum(bins.counts) == 500
    error = float(np.array(bins.counts) @ gaps / 500)
    assert expected_calibration_error(sure, right, equal=equal) == pytest.approx(error)
    assert calibration_error(sure, right, equal=equal).value == pytest.approx(error)


def test_the_interval_of_a_calibrated_predictor_reaches_zero_and_that_of_a_boaster_does_not():
    sure, right = calibrated(2000, seed=3)
    assert calibration_error(sure, right).low == 0.0
    boasting = calibration_error(np.full(2000, 0.99), right)
    assert 0.2 < boasting.low < boasting.value < boasting.high < 0.27
    assert boasting == calibration_error(np.full(2000, 0.99), right)


def test_brier_score_of_two_labels_is_twice_the_squared_error_of_one():
    rng = np.random.default_rng(4)
    probabilities, labels = softmax(rng.normal(size=(50, 2))), rng.integers(0, 2, 50)
    assert brier_score(probabilities, labels) == pytest.approx(
        2 * np.mean((probabilities[:, 1] - labels) ** 2)
    )


def test_area_under_risk_and_coverage_is_that_worked_out_by_hand():
    found = risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True]))
    assert found.risk == pytest.approx((0, 1 / 2, 1 / 3, 1 / 4))
    assert found.coverage == pytest.approx((0.25, 0.5, 0.75, 1.0))
    assert found.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_rows_of_equal_confidence_count_as_if_in_random_order():
    sure, right = np.array([0.9, 0.5, 0.5, 0.5]), np.array([True, True, False, False])
    rng, areas = np.random.default_rng(5), []
    for _ in range(4000):
        hidden = risk_coverage(sure + 1e-9 * rng.random(4), right)
        areas.append(hidden.area)
    assert risk_coverage(sure, right).area == pytest.approx(np.mean(areas), abs=0.01)
    assert risk_coverage(sure, right).coverage == (0.25, 1.0)


def test_a_long_curve_is_thinned_and_keeps_its_end_and_its_area():
    sure, right = calibrated(5000, seed=6)
    found = risk_coverage(sure, right)
    assert len(found.risk) <= 200 and found.coverage[-1] == 1.0
    assert found.risk[-1] == pytest.approx(1 - right.mean())
    order = np.argsort(-sure)
    assert found.area == pytest.approx(np.mean(np.cumsum(~right[order]) / np.arange(1, 5001)))


@pytest.mark.slow
def test_scaling_by_the_true_temperature_mends_every_stage_and_the_cascade():
    rng = np.random.default_rng(7)
    true = rng.normal(size=(4000, 3)) * 2
    labels = (rng.random(4000)[:, None] > softmax(true).cumsum(axis=1)).sum(axis=1)
    logits = np.stack([true * 3, true * 2]).astype(np.float32)
    found = analyze_calibration(logits, (3.0, 2.0), rng.integers(0, 2, 4000), labels)
    assert [one.name for one in found] == ["stage 1 alone", "stage 2 alone", "cascade"]
    for one in found:
        assert one.calibrated.ece.value < 0.03 < one.uncalibrated.ece.value
        assert one.calibrated.nll < one.uncalibrated.nll and one.calibrated.brier < one.uncalibrated.brier
        assert 0.5 < one.dis < 1


@pytest.mark.parametrize("n", [1, 5])
def test_degenerate_rows_have_figures_too(n):
    logits = np.zeros((2, n, 2), dtype=np.float32)
    logits[:, :, 0] = 3.0
    for one in analyze_calibration(logits, (1.0, 1.0), *np.zeros((2, n), dtype=np.int64)):
        assert one.dis is None and one.risk.area == 0.0 and one.calibrated.ece.value < 0.06
