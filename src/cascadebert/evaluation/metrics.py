"""Accuracy, ranking and calibration metrics, reliability diagrams and risk-coverage curves of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cascadebert.errors import UndefinedMetric, extra
from cascadebert.thresholds.confidence import log_odds
from cascadebert.thresholds.intervals import bootstrap_mean, percentile_interval
from cascadebert.types import Bools, Floats, Interval, Ints

Binning = Literal["width", "mass"]
BINS = 15
MAX_DRAWS, MIN_DRAWS = 1_000, 200
RESAMPLED_ROWS = 20_000_000  # upper limit of draws * n above MIN_DRAWS
CURVE_POINTS = 200


@dataclass(frozen=True)
class ReliabilityBins:
    """A reliability diagram; empty bins are left out."""

    counts: tuple[int, ...]
    confidence: tuple[float, ...]  # mean per bin
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class RiskCoverage:
    """Error rate when only the most confident rows are answered."""

    coverage: tuple[float, ...]  # fraction of rows answered, rising to 1; thinned to about 200 points
    risk: tuple[float, ...]  # error rate among them
    area: float  # mean risk over every number of answered rows; lower is better


def paired_difference(correct: Bools, baseline_correct: Bools) -> Interval:
    """Accuracy of a predictor minus that of a baseline on the same n rows, both given as (n,) correctness.

    The interval is the 95 % percentile bootstrap over rows (Efron & Tibshirani 1993, section 13).

    >>> gain = paired_difference(np.array([True] * 90 + [False] * 10), np.array([True] * 80 + [False] * 20))
    >>> round(gain.value, 2), round(gain.low, 2), round(gain.high, 2)
    (0.1, 0.05, 0.16)
    """
    wins, losses = int((correct & ~baseline_correct).sum()), int((baseline_correct & ~correct).sum())
    return bootstrap_mean(np.array([1.0, -1.0, 0.0]), np.array([wins, losses, len(correct) - wins - losses]))


def macro_f1(predicted: Ints, labels: Ints) -> float:
    """Unweighted mean of the F1 scores of the labels that occur in either (n,) array of label ids."""
    with extra("tune"):
        from sklearn.metrics import f1_score
    return float(f1_score(labels, predicted, average="macro", zero_division=0.0))


def difficulty_inversion_score(confidences: Floats, hard: Bools) -> float:
    """Fraction of (hard, easy) pairs in which the hard row has the lower confidence; higher is better.

    Equals the area under the ROC curve of the confidence as a predictor of "easy"; ties count one half
    (Li et al. 2021, section 2.2). Pass (n,) log-odds: saturated probabilities tie at 1.0. Raises
    UndefinedMetric if all rows are hard or none is.
    """
    if hard.all() or not hard.any():
        raise UndefinedMetric(
            f"the difficulty inversion score needs hard and easy rows; {hard.sum()} of {hard.size} are hard"
        )
    with extra("tune"):
        from sklearn.metrics import roc_auc_score
    return float(roc_auc_score(~hard, confidences))


def inversion_score_or_none(logits: Floats, correct: Bools) -> float | None:
    """`difficulty_inversion_score` by log-odds, hard = misclassified; None if all rows are or none is."""
    if correct.all() or not correct.any():
        return None
    return difficulty_inversion_score(log_odds(logits), ~correct)


def bin_indices(confidences: Floats, bins: int, equal: Binning) -> Ints:
    """(n,) bin of each row, counted from 0, of (n,) confidences in [0, 1] (any score for equal mass).

    Bins of equal width are open at their lower and closed at their upper edge. Bins of equal mass hold about
    n / bins rows each; equal confidences share a bin, so the order of rows does not matter.

    >>> bin_indices(np.array([0.1, 0.5, 0.9, 0.9]), 2, "width").tolist()
    [0, 0, 1, 1]
    """
    if equal == "width":
        return np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    smaller = np.searchsorted(np.sort(confidences), confidences, side="left")
    return np.asarray(smaller * bins // len(confidences))


def reliability_bins(
    confidences: Floats, correct: Bools, *, bins: int = BINS, equal: Binning = "width"
) -> ReliabilityBins:
    """Accuracy and mean confidence of each bin, from (n,) confidences in [0, 1].

    >>> reliability_bins(np.array([0.6, 0.9, 0.9]), np.array([True, True, False]), bins=5)
    ReliabilityBins(counts=(1, 2), confidence=(0.6, 0.9), accuracy=(1.0, 0.5))
    """
    index = bin_indices(confidences, bins, equal)
    _, index, counts = np.unique(index, return_inverse=True, return_counts=True)
    sums = (np.bincount(index, weights=values) for values in (confidences, correct))
    means = (tuple((total / counts).tolist()) for total in sums)
    return ReliabilityBins(tuple(counts.tolist()), *means)


def mean_gap(index: Ints, gaps: Floats) -> float:
    """Weighted mean over bins of |mean gap|, from (n,) bins and (n,) gaps (correctness minus confidence)."""
    return float(np.abs(np.bincount(index, weights=gaps)).sum() / len(index))


def expected_calibration_error(
    confidences: Floats, correct: Bools, bins: int = BINS, *, equal: Binning = "width"
) -> float:
    """Expected calibration error of (n,) confidences in [0, 1]; the bins are those of `bin_indices`.

    ECE = sum over bins of (rows in bin / n) * |accuracy in bin - mean confidence in bin|
    (Guo et al. 2017, equation 3).
    """
    return mean_gap(bin_indices(confidences, bins, equal), correct - confidences)


def calibration_error(
    confidences: Floats, correct: Bools, *, bins: int = BINS, equal: Binning = "width"
) -> Interval:
    """Expected calibration error of (n,) confidences in [0, 1] with its 95 % interval.

    ECE cannot be below 0, so noise raises it, and every bootstrap sample raises it again. The interval is
    therefore the basic one, 2 * ECE minus the 97.5 % and 2.5 % quantiles of the samples (Davison & Hinkley
    1997, section 5.2), and its lower end is 0 where as many rows of a calibrated predictor with these
    confidences would show as large an ECE in more than 5 % of cases (Broecker & Smith 2007). Both are drawn
    1,000 times with fixed bins; above 20,000 rows fewer times (at least 200).
    """
    n, index = len(confidences), bin_indices(confidences, bins, equal)
    gaps = correct - confidences
    rng, value, drawn, noise = np.random.default_rng(0), mean_gap(index, gaps), [], []
    for _ in range(max(MIN_DRAWS, min(MAX_DRAWS, RESAMPLED_ROWS // n))):
        rows = rng.integers(0, n, n)
        drawn.append(mean_gap(index[rows], gaps[rows]))
        noise.append(mean_gap(index, (rng.random(n) < confidences) - confidences))
    percentiles = percentile_interval(value, np.array(drawn))
    low, high = 2 * value - percentiles.high, 2 * value - percentiles.low
    low = 0.0 if value <= np.quantile(noise, 0.95) else min(max(0.0, low), value)
    return Interval(value, low, max(value, high))


def brier_score(probabilities: Floats, labels: Ints) -> float:
    """Mean squared distance of (n, num_labels) probabilities from (n,) labels, in [0, 2] (Brier 1950)."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(np.mean((probabilities**2).sum(axis=1) - 2 * own + 1))


def risk_coverage(confidences: Floats, correct: Bools) -> RiskCoverage:
    """Risk-coverage curve of (n,) confidences (any score that rises with certainty).

    The area is the mean over k = 1 .. n of the risk of the k most confident rows (Geifman & El-Yaniv 2017).
    Tied rows count as if in random order, so the order of rows does not matter.
    """
    n = len(confidences)
    _, group, size = np.unique(-np.asarray(confidences), return_inverse=True, return_counts=True)
    errors = np.bincount(group, weights=~correct)
    risk = np.cumsum(np.repeat(errors / size, size)) / np.arange(1, n + 1)
    ends = np.cumsum(size)
    points = ends[np.unique(np.linspace(0, len(ends) - 1, min(len(ends), CURVE_POINTS)).astype(np.int64))]
    return RiskCoverage(tuple((points / n).tolist()), tuple(risk[points - 1].tolist()), float(risk.mean()))
