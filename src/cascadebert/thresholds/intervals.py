"""Confidence intervals of a fraction, of a distance between distributions, and the bootstrap.

The first two are exact or conservative for independent draws from any distribution. A difference of two
samples lies between the differences of the ends of their own intervals. Newcombe's (1998) narrower interval
is not used: by enumeration it misses several times too often where fractions are near 1 and sample sizes
differ, even when it is built from exact limits.
"""

from __future__ import annotations

import numpy as np

from cascadebert.thresholds.risk_control import binomial_bound
from cascadebert.types import Floats, Interval, Ints

BOOTSTRAP_DRAWS = 10_000


def binomial_interval(count: int, n: int, delta: float) -> Interval:
    """`count` of n >= 1 as a fraction with its exact interval (Clopper & Pearson 1934).

    The interval misses the true fraction with probability `delta` at most, half of it on each side.

    >>> interval = binomial_interval(98, 100, 0.05)
    >>> interval.value, round(interval.low, 4), round(interval.high, 4)
    (0.98, 0.9296, 0.9976)
    """
    low, high = 1 - binomial_bound(n - count, n, delta / 2), binomial_bound(count, n, delta / 2)
    return Interval(count / n, min(low, count / n), max(high, count / n))


def ks_distance(reference: Floats, new: Floats, delta: float) -> Interval:
    """Kolmogorov-Smirnov distance of the distributions of two samples of sizes (n,) and (m,).

    Each empirical distribution lies within sqrt(ln(2 / delta) / (2 n)) of the true one everywhere, with
    probability 1 - delta (Massart 1990), with or without ties; the distance lies within the sum of both.

    >>> interval = ks_distance(np.linspace(0, 1, 1000), np.linspace(0.5, 1, 1000), 0.05)
    >>> round(interval.value, 3), round(interval.low, 3), round(interval.high, 3)
    (0.5, 0.414, 0.586)
    """
    samples = (reference, new)
    points = np.concatenate(samples)
    first, second = (np.searchsorted(np.sort(s), points, side="right") / len(s) for s in samples)
    distance = float(np.abs(first - second).max())
    slack = sum(float(np.sqrt(np.log(2 / delta) / (2 * len(sample)))) for sample in samples)
    return Interval(distance, max(distance - slack, 0.0), min(distance + slack, 1.0))


def percentile_interval(value: float, resampled: Floats) -> Interval:
    """`value` with the 95 % percentile interval of its (draws,) bootstrap values.

    Undefined values (NaN) are left out; both ends are NaN if none is defined (Efron & Tibshirani 1993,
    section 13).
    """
    defined = resampled[~np.isnan(resampled)]
    if not len(defined):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(defined, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def bootstrap_mean(values: Floats, counts: Ints) -> Interval:
    """Mean with its 95 % bootstrap interval, from the (k,) distinct values and how often each occurs.

    >>> mean = bootstrap_mean(np.array([1.0, 0.0]), np.array([90, 10]))
    >>> mean.value, round(mean.low, 2), round(mean.high, 2)
    (0.9, 0.84, 0.95)
    """
    n = int(counts.sum())
    resampled = np.random.default_rng(0).multinomial(n, counts / n, size=BOOTSTRAP_DRAWS)
    return percentile_interval(float(values @ counts / n), resampled @ values / n)
