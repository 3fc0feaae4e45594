"""Whether confidences say how often answers are right. Pure: arrays in, values out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cascadebert.types import Bools, Floats, Interval, Ints

Binning = Literal["width", "mass"]
BINS = 15
DRAWS, FEWEST_DRAWS = 1_000, 200
DRAWN_NUMBERS = 20_000_000
CURVE_POINTS = 200


@dataclass(frozen=True)
class ReliabilityBins:
    """What a reliability diagram shows; bins without a row are left out.

    Attributes:
        rows: (bins,) number of rows.
        confidence: (bins,) their mean confidence.
        accuracy: (bins,) share of them that is answered rightly.
    """

    rows: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class RiskCoverage:
    """The share of wrong answers when only the surest rows are answered.

    Attributes:
        coverage: (points,) share of rows answered, rising to 1; at most about 200 points are kept.
        risk: (points,) share of those that is wrong.
        area: under the curve: the mean risk over every number of answered rows; lower is better.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    area: float


def bin_numbers(confidences: Floats, bins: int, equal: Binning) -> Ints:
    """(n,) the bin of each row, counted from 0.

    Bins of equal width between 0 and 1 are open at their lower and closed at their upper edge. Bins of equal
    mass hold about n / bins rows each; equal confidences stay together, so the order of rows does not matter.

    Args:
        confidences: (n,) in [0, 1]; any score for bins of equal mass.
        bins: number of bins.
        equal: what is the same for all bins.

    >>> bin_numbers(np.array([0.1, 0.5, 0.9, 0.9]), 2, "width").tolist()
    [0, 0, 1, 1]
    >>> bin_numbers(np.array([0.6, 0.7, 0.8, 0.8]), 2, "mass").tolist()
    [0, 0, 1, 1]
    """
    if equal == "width":
        return np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    less = np.searchsorted(np.sort(confidences), confidences, side="left")
    return np.asarray(less * bins // len(confidences))


def reliability_bins(
    confidences: Floats, right: Bools, *, bins: int = BINS, equal: Binning = "width"
) -> ReliabilityBins:
    """Accuracy beside mean confidence, bin by bin.

    Args:
        confidences: (n,) in [0, 1].
        right: (n,) True where the answer is right.
        bins: number of bins.
        equal: what is the same for all bins.

    >>> reliability_bins(np.array([0.6, 0.9, 0.9]), np.array([True, True, False]), bins=5)
    ReliabilityBins(rows=(1, 2), confidence=(0.6, 0.9), accuracy=(1.0, 0.5))
    """
    which = bin_numbers(confidences, bins, equal)
    rows = np.bincount(which, minlength=bins)
    full = np.flatnonzero(rows)
    sure = np.bincount(which, weights=confidences, minlength=bins)[full] / rows[full]
    hits = np.bincount(which, weights=right, minlength=bins)[full] / rows[full]
    return ReliabilityBins(tuple(rows[full].tolist()), tuple(sure.tolist()), tuple(hits.tolist()))


def mean_gap(which: Ints, gaps: Floats) -> float:
    """Mean over rows of the absolute mean gap of their bin.

    Args:
        which: (n,) bin of each row.
        gaps: (n,) 1 for a right answer and 0 for a wrong one, less its confidence.
    """
    return float(np.abs(np.bincount(which, weights=gaps)).sum() / len(which))


def calibration_error(
    confidences: Floats, right: Bools, *, bins: int = BINS, equal: Binning = "width"
) -> Interval:
    """Expected calibration error with its interval.

    ECE cannot be below 0, so that noise alone lifts it, and every bootstrap sample lifts it again. The
    interval is therefore the basic one, 2 * ECE less the 97.5 % and 2.5 % quantiles of the samples (Davison
    & Hinkley 1997, section 5.2), and it begins at 0 where as many rows of a calibrated predictor with these
    confidences would show as large an ECE in more than 5 % of cases (Broecker & Smith 2007). Both are drawn
    1,000 times with the bins as they are, above 20,000 rows less often (at least 200 times).

    Args:
        confidences: (n,) in [0, 1].
        right: (n,) True where the answer is right.
        bins: number of bins.
        equal: what is the same for all bins.
    """
    n, which = len(confidences), bin_numbers(confidences, bins, equal)
    gaps = right - confidences

    rng, value, drawn, noise = np.random.default_rng(0), mean_gap(which, gaps), [], []
    for _ in range(max(FEWEST_DRAWS, min(DRAWS, DRAWN_NUMBERS // n))):
        rows = rng.integers(0, n, n)
        drawn.append(mean_gap(which[rows], gaps[rows]))
        noise.append(mean_gap(which, (rng.random(n) < confidences) - confidences))
    high, low = 2 * value - np.quantile(drawn, [0.025, 0.975])
    low = 0.0 if value <= np.quantile(noise, 0.95) else min(max(0.0, float(low)), value)
    return Interval(value, low, max(value, float(high)))


def brier_score(probabilities: Floats, labels: Ints) -> float:
    """Mean squared distance of the probabilities from the label (Brier 1950), summed over the labels: 0 to 2.

    Args:
        probabilities: (n, num_labels).
        labels: (n,) label ids.

    >>> brier_score(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 1]))
    0.25
    """
    own = probabilities[np.arange(len(labels)), labels]
    return float(np.mean((probabilities**2).sum(axis=1) - 2 * own + 1))


def risk_coverage(confidences: Floats, right: Bools) -> RiskCoverage:
    """How the share of wrong answers grows as less and less sure rows are answered.

    The area is the mean over k = 1 .. n of the risk of the k surest rows (Geifman & El-Yaniv 2017). Of rows
    with equal confidence each is taken to be as likely as any to come first, so their order does not matter.

    Args:
        confidences: (n,) any score that rises with certainty.
        right: (n,) True where the answer is right.

    >>> risk_coverage(np.array([0.9, 0.6]), np.array([True, False]))
    RiskCoverage(coverage=(0.5, 1.0), risk=(0.0, 0.5), area=0.25)
    """
    n = len(confidences)
    _, group, size = np.unique(-np.asarray(confidences), return_inverse=True, return_counts=True)
    wrong = np.bincount(group, weights=~right)
    answered = np.arange(1, n + 1)
    expected = np.cumsum(np.repeat(wrong / size, size)) / answered
    ends = np.cumsum(size)
    kept = np.unique(np.linspace(0, len(ends) - 1, min(len(ends), CURVE_POINTS)).astype(np.int64))
    shown = ends[kept]
    return RiskCoverage(
        tuple((shown / n).tolist()), tuple(expected[shown - 1].tolist()), float(expected.mean())
    )
