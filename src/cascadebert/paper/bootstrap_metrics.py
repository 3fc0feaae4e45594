"""Metrics from sums over texts, so that mixtures and bootstrap samples cost one matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple

import numpy as np

from cascadebert.paper.protocol import MetricName
from cascadebert.thresholds.intervals import percentile_interval
from cascadebert.types import Bools, Floats, Ints

SampleMetric = Callable[[Floats], Floats]
"""From (draws, n) weights of texts to (draws,) values of a metric."""


def metric_counts(predictions: Ints, labels: Ints) -> Floats:
    """(n, 5) contribution of each text: 1, correct; true positive, false positive, false negative of label 1.

    >>> metric_counts(np.array([1, 1]), np.array([1, 0])).tolist()
    [[1.0, 1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0, 0.0]]
    """
    positive, true = predictions == 1, labels == 1
    columns = [np.ones(len(labels)), predictions == labels]
    columns += [positive & true, positive & ~true, ~positive & true]
    return np.stack([column.astype(np.float64) for column in columns], axis=-1)


def metric_score(metric: MetricName, sums: Floats) -> Floats:
    """(...) values of a metric from (..., 5) sums of `metric_counts`.

    All metrics but accuracy are of two labels. An undefined correlation is 0, as in scikit-learn.

    >>> sums = metric_counts(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0])).sum(axis=0)
    >>> [round(float(metric_score(name, sums)), 4) for name in ("accuracy", "accuracy_and_f1", "matthews")]
    [0.75, 0.7083, 0.5774]
    """
    n, correct, tp, fp, fn = np.moveaxis(sums, -1, 0)
    if metric == "accuracy":
        return np.asarray(correct / n)
    if metric == "accuracy_and_f1":
        return np.asarray((correct / n + _ratio(2 * tp, 2 * tp + fp + fn)) / 2)
    tn = n - tp - fp - fn
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return _ratio(tp * tn - fp * fn, np.sqrt(np.maximum(product, 0.0)))


def chance_score(metric: MetricName, label: int, labels: Ints) -> float:
    """The score of always predicting one label id, such as the most common of the tuning set."""
    return float(metric_score(metric, metric_counts(np.full(len(labels), label), labels).sum(axis=0)))


def correct_for_chance(scores: Floats, chance: float | Floats) -> Floats:
    """Scores rescaled so that chance is 0 and a perfect score is 1."""
    return np.asarray((scores - chance) / (1 - chance))


def relative_improvement(scores: Floats, baseline: Floats) -> Floats:
    """(...) relative difference of the means over tasks of two (tasks, ...) arrays.

    NaN where the mean of the baseline is not above 0.

    >>> float(relative_improvement(np.array([0.9, 0.3]), np.array([0.8, 0.2])).round(12))
    0.2
    """
    mean = baseline.mean(axis=0)
    mean = np.where(mean > 0, mean, np.nan)
    return np.asarray((scores.mean(axis=0) - mean) / mean)


def draw_samples(n: int, seeds: int, draws: int, *, key: Sequence[int]) -> tuple[Floats, Floats]:
    """Bootstrap samples: (draws, n) count of each text, and (seeds, draws) fraction of each training seed.

    `key` seeds the generator.
    """
    rng = np.random.default_rng(key)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    return weights.astype(np.float64), rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws).T / seeds


def none_if_undefined(value: float) -> float | None:
    """The value as JSON stores it: None instead of NaN."""
    return None if np.isnan(value) else float(value)


def interval_values(value: float, drawn: Floats) -> tuple[float | None, ...]:
    """The value and both ends of its 95 % percentile interval over (draws,) samples, None where undefined."""
    return tuple(none_if_undefined(number) for number in astuple(percentile_interval(value, drawn)))


def difference_values(delta: float, drawn: Floats) -> dict[str, float | None]:
    """The same by the names of the result files."""
    return dict(zip(("delta", "ci_low", "ci_high"), interval_values(delta, drawn), strict=True))


def mean_of_defined(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN, or NaN if there are none."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def sample_dis(scores: Floats, hard: Bools, weights: Floats) -> Floats:
    """(draws,) difficulty inversion scores of bootstrap samples; see `difficulty_inversion_score`.

    Scores and difficulty are (n,), weights are (draws, n); NaN where a sample has no pair.

    >>> sample_dis(np.array([0.9, 0.8, 0.6]), np.array([False, True, True]), np.array([[1, 1, 1], [1, 0, 0]]))
    array([ 1., nan])
    """
    _, group = np.unique(scores, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    hard_sums, easy_sums = (
        np.add.reduceat((weights * side)[:, order], starts, axis=1) for side in (hard, ~hard)
    )
    below = np.cumsum(hard_sums, axis=1) - hard_sums / 2
    pairs = hard_sums.sum(axis=1) * easy_sums.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((below * easy_sums).sum(axis=1) / pairs)


def sample_ece(bins: Ints, gaps: Floats, weights: Floats) -> Floats:
    """(draws,) expected calibration errors of bootstrap samples.

    `bins` are (n,), `gaps` the (n,) correctness (0 or 1) minus the confidence; weights are (draws, n).
    """
    table = np.zeros((len(bins), int(bins.max()) + 1))
    table[np.arange(len(bins)), bins] = gaps
    return np.asarray(np.abs(weights @ table).sum(axis=1) / weights.sum(axis=1))


def sample_difference(
    metrics: Sequence[SampleMetric], baselines: Sequence[SampleMetric], weights: Floats, seed_weights: Floats
) -> Floats:
    """(draws,) mean over seeds of a metric minus that of a baseline on the same texts.

    Metrics and baselines are one per seed; both weights come from `draw_samples`.
    """
    differences = [
        metric(weights) - baseline(weights) for metric, baseline in zip(metrics, baselines, strict=True)
    ]
    return np.asarray((np.stack(differences) * seed_weights).sum(axis=0))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    out = np.zeros_like(numerator)
    return np.asarray(np.divide(numerator, denominator, out=out, where=denominator > 0))
