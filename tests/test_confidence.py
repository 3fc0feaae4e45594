"""Confidence, metrics and calibration against oracles written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cascadebert.errors import UndefinedMetric
from cascadebert.evaluation.metrics import difficulty_inversion_score, expected_calibration_error, macro_f1
from cascadebert.thresholds.confidence import (
    fit_temperature,
    log_odds,
    max_probability,
    negative_log_likelihood,
    scale_logits,
    softmax,
)


def test_log_odds_agree_with_probabilities_where_those_do_not_saturate():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    sure = max_probability(softmax(logits))
    assert log_odds(logits) == pytest.approx(np.log(sure / (1 - sure)))


def test_log_odds_differ_where_probabilities_are_all_one():
    logits = np.array([[0.0, 50.0], [0.0, 60.0]])
    assert len(set(max_probability(softmax(logits)))) == 1
    assert len(set(log_odds(logits))) == 2


def test_the_inversion_score_counts_pairs_and_half_of_the_ties():
    rng = np.random.default_rng(1)
    confidences, hard = rng.integers(0, 6, 60) / 6, rng.random(60) < 0.4
    pairs = [(h, e) for h in confidences[hard] for e in confidences[~hard]]
    share = np.mean([1.0 if h < e else 0.5 if h == e else 0.0 for h, e in pairs])
    assert difficulty_inversion_score(confidences, hard) == pytest.approx(share)


@pytest.mark.parametrize("hard", [np.ones(4, bool), np.zeros(4, bool)])
def test_the_inversion_score_is_undefined_without_both_kinds(hard):
    with pytest.raises(UndefinedMetric, match="needs hard and easy rows"):
        difficulty_inversion_score(np.arange(4.0), hard)


def test_calibration_error_equals_a_loop_over_the_bins():
    rng = np.random.default_rng(2)
    confidences = np.concatenate([rng.random(300), [0.0, 1.0, 1 / 15, 2 / 15]])
    right = rng.random(304) < confidences
    total = 0.0
    for b in range(15):
        inside = (confidences > b / 15) & (confidences <= (b + 1) / 15)
        inside |= (confidences == 0.0) & (b == 0)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidences[inside].mean())
    assert expected_calibration_error(confidences, right) == pytest.approx(total)


def test_macro_f1_leaves_out_labels_that_never_occur():
    assert macro_f1(np.array([0, 1]), np.array([0, 1])) == 1.0


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_the_fitted_temperature_is_the_one_the_labels_were_drawn_with(true_temperature):
    rng = np.random.default_rng(3)
    logits = (rng.normal(size=(40_000, 3)) * 2).astype(np.float32)
    probabilities = softmax(scale_logits(logits, true_temperature))
    labels = (rng.random(len(logits))[:, None] > probabilities.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(true_temperature, rel=0.05)


def test_the_fitted_temperature_is_about_never_worse_than_none():
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(2000, 5)).astype(np.float32), rng.integers(0, 5, 2000)
    fitted = scale_logits(logits, fit_temperature(logits, labels))
    assert negative_log_likelihood(fitted, labels) < negative_log_likelihood(
        scale_logits(logits, 1.0), labels
    )


def test_the_likelihood_with_smoothing_is_the_cross_entropy_with_softened_labels():
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(size=(20, 4)), rng.integers(0, 4, 20)
    soft = np.full((20, 4), 0.1 / 3)
    soft[np.arange(20), labels] = 0.9
    expected = -(soft * np.log(softmax(logits))).sum(axis=1).mean()
    assert negative_log_likelihood(logits, labels, smoothing=0.1) == pytest.approx(expected)


@pytest.mark.parametrize("n", [4, 400])
def test_a_stage_that_never_errs_on_n_rows_is_about_one_part_in_n_unsure(n):
    labels = np.arange(n) % 4
    logits = np.eye(4, dtype=np.float32)[labels] * 5
    sure = max_probability(softmax(scale_logits(logits, fit_temperature(logits, labels))))
    assert sure == pytest.approx(np.full(n, (n + 1) / (n + 2)), abs=1e-4)
