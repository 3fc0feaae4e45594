"""Intervals that hold for finite samples: of a share, of a distance of distributions, of a difference. Pure.

Each is exact or conservative, whatever the data's distribution, if rows are independent draws. A difference
of two samples lies between the differences of the ends of their own intervals. Newcombe's (1998) narrower one
is not used: by enumeration it misses several times too often where shares lie near 1 and samples are of
unlike size, even when it is made of exact limits.
"""

from __future__ import annotations

import numpy as np

from cascadebert.thresholds.risk_control import binomial_bound
from cascadebert.types import Floats, Interval, Ints


def binomial_interval(count: int, n: int, delta: float) -> Interval:
    """A share and its exact interval (Clopper & Pearson 1934), missed with probability delta at most.

    Args:
        count: rows of the kind.
        n: rows, at least 1.
        delta: split evenly over both sides.

    >>> found = binomial_interval(98, 100, 0.05)
    >>> found.value, round(found.low, 4), round(found.high, 4)
    (0.98, 0.9296, 0.9976)
    """
    low, high = 1 - binomial_bound(n - count, n, delta / 2), binomial_bound(count, n, delta / 2)
    return Interval(count / n, min(low, count / n), max(high, count / n))


def ks_distance(reference: Floats, new: Floats, delta: float) -> Interval:
    """Kolmogorov-Smirnov distance of two distributions: the largest gap of their cumulative shares.

    Each empirical distribution lies within sqrt(ln(2 / delta) / (2 n)) of the true one everywhere, with
    probability 1 - delta (Massart 1990), whether values tie or not; the distance within both together.

    Args:
        reference: (n,) values.
        new: (m,) values.
        delta: for each of both.

    >>> found = ks_distance(np.linspace(0, 1, 1000), np.linspace(0.5, 1, 1000), 0.05)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.5, 0.414, 0.586)
    """
    at = np.concatenate([reference, new])
    below = [np.searchsorted(np.sort(one), at, side="right") / len(one) for one in (reference, new)]
    gap = float(np.abs(below[0] - below[1]).max())
    slack = sum(float(np.sqrt(np.log(2 / delta) / (2 * len(one)))) for one in (reference, new))
    return Interval(gap, max(gap - slack, 0.0), min(gap + slack, 1.0))


BOOTSTRAP_DRAWS = 10_000


def percentile_interval(value: float, drawn: Floats) -> Interval:
    """A figure with the 95 % percentile bootstrap interval of its (draws,) resampled values.

    Undefined resamples (NaN) are left out; both ends are NaN if none is defined (Efron & Tibshirani 1993,
    section 13).
    """
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def bootstrap_mean(values: Floats, counts: Ints) -> Interval:
    """Mean of n numbers with its 95 % bootstrap interval, given their k distinct values and how often each occurs.

    >>> mean = bootstrap_mean(np.array([1.0, 0.0]), np.array([90, 10]))
    >>> mean.value, round(mean.low, 2), round(mean.high, 2)
    (0.9, 0.84, 0.95)
    """
    n = int(counts.sum())
    drawn = np.random.default_rng(0).multinomial(n, counts / n, size=BOOTSTRAP_DRAWS)
    return percentile_interval(float(values @ counts / n), drawn @ values / n)
