"""How good and how trustworthy answers are. Pure: arrays in, numbers out."""

from __future__ import annotations

import numpy as np

from cascadebert.errors import UndefinedMetric, extra
from cascadebert.evaluation.calibration_metrics import BINS, Binning, bin_numbers, mean_gap
from cascadebert.thresholds.intervals import bootstrap_mean
from cascadebert.types import Bools, Floats, Interval, Ints


def accuracy(predicted: Ints, labels: Ints) -> float:
    """Share of rows answered rightly.

    Args:
        predicted: (n,) label ids.
        labels: (n,) label ids.

    >>> accuracy(np.array([0, 1, 1]), np.array([0, 1, 0]))
    0.6666666666666666
    """
    return float(np.mean(predicted == labels))


def paired_difference(one: Bools, other: Bools) -> Interval:
    """Accuracy of one predictor less that of another on the same rows.

    The interval is the percentile bootstrap over rows (Efron & Tibshirani 1993, section 13), drawn from the
    counts of rows that only the one, only the other, or both or neither answer rightly.

    Args:
        one: (n,) whether it is right.
        other: (n,) whether the other is.

    >>> found = paired_difference(np.array([True] * 90 + [False] * 10), np.array([True] * 80 + [False] * 20))
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (0.1, 0.05, 0.16)
    """
    n, wins, losses = len(one), int((one & ~other).sum()), int((other & ~one).sum())
    return bootstrap_mean(np.array([1.0, -1.0, 0.0]), np.array([wins, losses, n - wins - losses]))


def macro_f1(predicted: Ints, labels: Ints, num_labels: int) -> float:
    """F1 of each label, averaged without weights over the labels that occur in either array.

    Args:
        predicted: (n,) label ids.
        labels: (n,) label ids.
        num_labels: ids run from 0 to this number less one.

    >>> macro_f1(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
    0.6666666666666666
    """
    with extra("tune"):
        from sklearn.metrics import f1_score
    present = np.intersect1d(np.arange(num_labels), np.union1d(predicted, labels))
    return float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0))


def expected_calibration_error(
    confidences: Floats, right: Bools, bins: int = BINS, *, equal: Binning = "width"
) -> float:
    """Mean gap between confidence and accuracy over bins, weighted by rows.

    ECE = sum over bins of (rows in bin / n) * |accuracy in bin - mean confidence in bin|
    (Guo et al. 2017, equation 3); the bins are those of `bin_numbers`.

    Args:
        confidences: (n,) in [0, 1].
        right: (n,) True where the answer is right.
        bins: number of bins.
        equal: whether bins are equally wide or hold equally many rows.

    >>> expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4
    """
    return mean_gap(bin_numbers(confidences, bins, equal), right - confidences)


def difficulty_inversion_score(confidences: Floats, hard: Bools) -> float:
    """Share of (hard, easy) pairs in which the hard row has the lower confidence; higher is better.

    Equals the area under the ROC curve of the confidence as a predictor of "easy"; ties count one
    half (Li et al. 2021, section 2.2). Pass log-odds: saturated probabilities tie at 1.0.

    Args:
        confidences: (n,) any score that rises with certainty.
        hard: (n,) True where the row is difficult.

    Raises:
        UndefinedMetric: if all rows are hard or none is.

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
