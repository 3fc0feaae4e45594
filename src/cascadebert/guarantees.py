"""What holds on new data, with a stated confidence. Pure: losses on rows kept for it in, bounds out.

A promise is that a risk (a mean loss) is at most a level. Operating points are ordered beforehand, safest
first, on other rows; on the rows kept for it each is tested in turn at the whole of delta until one fails
(fixed-sequence testing in Learn-then-Test, Angelopoulos et al. 2021, arXiv 2110.01052, section 2.4). With
probability 1 - delta every accepted point keeps the promise, whatever the data's distribution, if rows are
independent draws from it.
"""

from __future__ import annotations

import numpy as np

from cascadebert.errors import extra
from cascadebert.types import Floats, Ints

ORDER_SEED = 0


def binomial_p_values(errors: Ints, n: Ints, level: float) -> Floats:
    """Exact p-values of "the risk exceeds the level", for losses of 0 and 1.

    The chance of so few errors or fewer in n rows if each had the chance `level`: the tail of the binomial
    distribution, which no other test of these counts beats.

    Args:
        errors: (points,) rows with loss 1.
        n: (points,) rows.
        level: in (0, 1).

    >>> np.round(binomial_p_values(np.array([0, 5]), np.array([100, 100]), 0.05), 4).tolist()
    [0.0059, 0.616]
    """
    with extra("tune"):
        from scipy.stats import binom
    return np.asarray(binom.cdf(errors, n, level), dtype=np.float64)


def binomial_bound(errors: int, n: int, delta: float) -> float:
    """The least level that would be accepted: Clopper and Pearson's (1934) upper bound of a share.

    >>> round(binomial_bound(0, 100, 0.05), 4)
    0.0295
    """
    with extra("tune"):
        from scipy.stats import beta
    return 1.0 if errors >= n else float(beta.ppf(1 - delta, errors + 1, n - errors))


def betting_p_values(losses: Floats, level: float, delta: float) -> Floats:
    """p-values of "the mean exceeds the level", for losses in [-1, 1] such as paired differences.

    One bets against the claim, row by row, an amount that only depends on rows before; the capital grows
    beyond 1 / p with probability at most p if the claim is true (Ville). The amounts are the predictable
    plug-in of Waudby-Smith & Ramdas (2023, "Estimating means of bounded random variables by betting",
    section 3.1 and appendix B), which adapts to the variance: differences are mostly 0.

    Args:
        losses: (points, n) of the same rows in an order that has nothing to do with them.
        level: in (-1, 1).
        delta: the error for which the amounts are best.
    """
    shares, mean = (losses + 1) / 2, (level + 1) / 2
    n = shares.shape[1]
    count = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(shares, axis=1)) / (count + 1)
    spread = (0.25 + np.cumsum((shares - means) ** 2, axis=1)) / (count + 1)
    before = np.concatenate([np.full((len(shares), 1), 0.25), spread[:, :-1]], axis=1)
    amounts = np.minimum(np.sqrt(2 * np.log(1 / delta) / (n * before)), 0.5 / (1 - mean))
    capital = np.cumsum(np.log1p(amounts * (mean - shares)), axis=1)
    return np.asarray(np.exp(-np.maximum(capital.max(axis=1), 0.0)))


def betting_bound(losses: Floats, delta: float) -> float:
    """The least level that would be accepted, to four digits, for one point's (n,) losses in [-1, 1]."""
    low, high = float(losses.mean()), 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        accepted = betting_p_values(losses[None], middle, delta)[0] <= delta
        low, high = (low, middle) if accepted else (middle, high)
    return high


def fixed_sequence(p_values: Floats, delta: float) -> int:
    """How many points from the start are accepted: those before the first whose p-value exceeds delta.

    >>> fixed_sequence(np.array([0.01, 0.04, 0.2, 0.01]), 0.05)
    2
    """
    failed = np.flatnonzero(p_values > delta)
    return int(failed[0]) if len(failed) else len(p_values)


def rows_needed(level: float, expected: float, delta: float) -> int | None:
    """Rows after which a promise is accepted if errors come at their expected rate; None if never.

    Args:
        level: of the promise.
        expected: the rate that is believed to be true.
        delta: of the promise.

    >>> rows_needed(0.02, 0.0, 0.05), rows_needed(0.02, 0.01, 0.05), rows_needed(0.02, 0.02, 0.05)
    (149, 590, None)
    """
    if expected >= level:
        return None
    n = np.unique(np.geomspace(1, 10_000_000, 4000).astype(np.int64))
    enough = np.flatnonzero(binomial_p_values(np.ceil(n * expected).astype(np.int64), n, level) <= delta)
    if not len(enough):
        return None
    start = int(n[max(0, enough[0] - 1)])
    near = np.arange(start, int(n[enough[0]]) + 1)
    passed = binomial_p_values(np.ceil(near * expected).astype(np.int64), near, level) <= delta
    return int(near[np.flatnonzero(passed)[0]])
