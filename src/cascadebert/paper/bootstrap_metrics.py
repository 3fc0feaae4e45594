"""Metrics from sums over rows, so that mixtures and bootstrap samples cost a matrix product. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cascadebert.paper.protocol import MetricName
from cascadebert.types import Bools, Floats, Ints

QUANTILES = (0.025, 0.975)


def row_counts(answers: Ints, labels: Ints) -> Floats:
    """(n, 5) what each row adds to the sums: one; right; and of label 1: true, wrongly said, missed.

    >>> row_counts(np.array([1, 1]), np.array([1, 0])).tolist()
    [[1.0, 1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0, 0.0]]
    """
    said, true = answers == 1, labels == 1
    columns = [np.ones(len(labels)), answers == labels, said & true, said & ~true, ~said & true]
    return np.stack([np.asarray(one, dtype=np.float64) for one in columns], axis=-1)


def score(metric: MetricName, sums: Floats) -> Floats:
    """The metric of summed `row_counts`.

    Args:
        metric: which; all but accuracy are of two labels.
        sums: (..., 5).

    Returns:
        (...); the correlation is 0 where it is not defined, as scikit-learn has it.

    >>> sums = row_counts(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0])).sum(axis=0)
    >>> [round(float(score(name, sums)), 4) for name in ("accuracy", "accuracy_and_f1", "matthews")]
    [0.75, 0.7083, 0.5774]
    """
    rows, right, hit, wrong, missed = np.moveaxis(sums, -1, 0)
    if metric == "accuracy":
        return np.asarray(right / rows)
    if metric == "accuracy_and_f1":
        return np.asarray((right / rows + _ratio(2 * hit, 2 * hit + wrong + missed)) / 2)
    other = rows - hit - wrong - missed
    product = (hit + wrong) * (hit + missed) * (other + wrong) * (other + missed)
    return _ratio(hit * other - wrong * missed, np.sqrt(np.maximum(product, 0.0)))


def chance(metric: MetricName, common: int, labels: Ints) -> float:
    """The score of answering one label always.

    Args:
        metric: which.
        common: the label id, the commonest of the tune rows.
        labels: (n,) true label ids.
    """
    return float(score(metric, row_counts(np.full(len(labels), common), labels).sum(axis=0)))


def corrected(scores: Floats, level: float | Floats) -> Floats:
    """Scores with chance at 0 and a perfect one at 1."""
    return np.asarray((scores - level) / (1 - level))


def relative_improvement(ours: Floats, theirs: Floats) -> Floats:
    """(Mean over tasks of ours less that of theirs) / that of theirs; not defined where that is not above 0.

    Args:
        ours: (tasks, ...).
        theirs: (tasks, ...).

    Returns:
        (...), NaN where it is not defined.

    >>> float(relative_improvement(np.array([0.9, 0.3]), np.array([0.8, 0.2])).round(12))
    0.2
    """
    mean = theirs.mean(axis=0)
    mean = np.where(mean > 0, mean, np.nan)
    return np.asarray((ours.mean(axis=0) - mean) / mean)


def row_draws(n: int, draws: int, rng: np.random.Generator) -> Floats:
    """(draws, n) how often each row is in each bootstrap sample."""
    return np.asarray(rng.multinomial(n, np.full(n, 1 / n), size=draws), dtype=np.float64)


def seed_draws(seeds: int, draws: int, rng: np.random.Generator) -> Floats:
    """(seeds, draws) share of each seed in each bootstrap sample."""
    return np.asarray(rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws).T / seeds)


def percentile_interval(drawn: Floats) -> tuple[float | None, float | None]:
    """The percentile interval at 95 %; samples in which the figure is not defined are left out."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return None, None
    low, high = np.quantile(known, QUANTILES)
    return float(low), float(high)


def known_mean(values: Sequence[float]) -> float | None:
    """Mean of the values that are defined, or None."""
    known = [one for one in values if one == one]
    return float(np.mean(known)) if known else None


def drawn_dis(odds: Floats, hard: Bools, weights: Floats) -> Floats:
    """(draws,) difficulty inversion scores of bootstrap samples; see `metrics.difficulty_inversion_score`.

    Args:
        odds: (n,) scores that rise with certainty.
        hard: (n,) True where the row is difficult.
        weights: (draws, n).

    >>> drawn_dis(np.array([0.9, 0.8, 0.6]), np.array([False, True, True]), np.array([[1, 1, 1], [1, 0, 0]]))
    array([ 1., nan])
    """
    _, group = np.unique(odds, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sides = [np.add.reduceat((weights * side)[:, order], starts, axis=1) for side in (hard, ~hard)]
    below = np.cumsum(sides[0], axis=1) - sides[0] / 2
    pairs = sides[0].sum(axis=1) * sides[1].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((below * sides[1]).sum(axis=1) / pairs)


def drawn_ece(which: Ints, gaps: Floats, weights: Floats) -> Floats:
    """(draws,) expected calibration errors of bootstrap samples.

    Args:
        which: (n,) bin of each row.
        gaps: (n,) 1 for a right answer and 0 for a wrong one, less its confidence.
        weights: (draws, n).
    """
    spread = np.zeros((len(which), int(which.max()) + 1))
    spread[np.arange(len(which)), which] = gaps
    return np.asarray(np.abs(weights @ spread).sum(axis=1) / weights.sum(axis=1))


def bootstrap_delta(
    figures: Sequence[Callable[[Floats], Floats]],
    others: Sequence[Callable[[Floats], Floats]],
    weights: Floats,
    shares: Floats,
) -> Floats:
    """(draws,) mean over seeds of a figure less that of another in bootstrap samples of rows and seeds.

    Args:
        figures: per seed, from (draws, n) weights to (draws,) figures.
        others: the same for what is taken off, on the same rows.
        weights: (draws, n) from `row_draws`.
        shares: (seeds, draws) from `seed_draws`.
    """
    each = np.stack([one(weights) - other(weights) for one, other in zip(figures, others, strict=True)])
    return np.asarray((each * shares).sum(axis=0))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))
