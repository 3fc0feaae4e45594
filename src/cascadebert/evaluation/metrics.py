"""Accuracy, calibration and ranking metrics of predictions. Pure functions of arrays."""

from __future__ import annotations

import numpy as np

from cascadebert.errors import UndefinedMetric, extra
from cascadebert.evaluation.calibration_metrics import BINS, Binning, bin_indices, mean_gap
from cascadebert.thresholds.intervals import bootstrap_mean
from cascadebert.types import Bools, Floats, Interval, Ints


def accuracy(predicted: Ints, labels: Ints) -> float:
    """Fraction of the (n,) predicted label ids that equal the (n,) labels.

    >>> accuracy(np.array([0, 1, 1]), np.array([0, 1, 0]))
    0.6666666666666666
    """
    return float(np.mean(predicted == labels))


def paired_difference(correct: Bools, baseline_correct: Bools) -> Interval:
    """Accuracy of a predictor minus that of a baseline on the same n rows, both given as (n,) correctness.

    The interval is the 95 % percentile bootstrap over rows (Efron & Tibshirani 1993, section 13).

    >>> found = paired_difference(np.array([True] * 90 + [False] * 10), np.array([True] * 80 + [False] * 20))
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (0.1, 0.05, 0.16)
    """
    wins, losses = int((correct & ~baseline_correct).sum()), int((baseline_correct & ~correct).sum())
    return bootstrap_mean(np.array([1.0, -1.0, 0.0]), np.array([wins, losses, len(correct) - wins - losses]))


def macro_f1(predicted: Ints, labels: Ints) -> float:
    """Unweighted mean of the F1 scores of the labels that occur in either (n,) array of label ids.

    >>> macro_f1(np.array([0, 1, 1]), np.array([0, 1, 0]))
    0.6666666666666666
    """
    with extra("tune"):
        from sklearn.metrics import f1_score
    return float(f1_score(labels, predicted, average="macro", zero_division=0.0))


def expected_calibration_error(
    confidences: Floats, correct: Bools, bins: int = BINS, *, equal: Binning = "width"
) -> float:
    """Expected calibration error of (n,) confidences in [0, 1]; the bins are those of `bin_indices`.

    ECE = sum over bins of (rows in bin / n) * |accuracy in bin - mean confidence in bin|
    (Guo et al. 2017, equation 3).

    >>> expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4
    """
    return mean_gap(bin_indices(confidences, bins, equal), correct - confidences)


def difficulty_inversion_score(confidences: Floats, hard: Bools) -> float:
    """Fraction of (hard, easy) pairs in which the hard row has the lower confidence; higher is better.

    Equals the area under the ROC curve of the confidence as a predictor of "easy"; ties count one half
    (Li et al. 2021, section 2.2). Pass (n,) log-odds: saturated probabilities tie at 1.0. Raises
    UndefinedMetric if all rows are hard or none is.

    >>> difficulty_inversion_score(np.array([0.9, 0.8, 0.6]), np.array([False, False, True]))
    1.0
    """
    if hard.all() or not hard.any():
        raise UndefinedMetric(
            f"the difficulty inversion score needs hard and easy rows; {hard.sum()} of {hard.size} are hard"
        )
    with extra("tune"):
        from sklearn.metrics import roc_auc_score
    return float(roc_auc_score(~hard, confidences))
