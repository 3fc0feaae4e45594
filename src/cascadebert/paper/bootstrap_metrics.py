"""Metrics from sums over texts, so that mixtures and bootstrap samples cost one matrix product."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple

import numpy as np

from cascadebert.paper.protocol import MetricName
from cascadebert.thresholds.intervals import percentile_interval
from cascadebert.types import Bools, Floats, Ints


def metric_counts(predictions: Ints, labels: Ints) -> Floats:
    """(n, 5) terms of each text: 1, correct; true positive, false positive, false negative of label 1."""
    positive, true = predictions == 1, labels == 1
    columns = [np.ones(len(labels)), predictions == labels]
    columns += [positive & true, positive & ~true, ~positive & true]
    return np.stack([column.astype(np.float64) for column in columns], axis=-1)


def metric_score(metric: MetricName, sums: Floats) -> Floats:
    """(...) values of a metric from (..., 5) sums of `metric_counts`.

    All metrics but accuracy are of two labels. An undefined correlation is 0, as in scikit-learn.
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
    """(...) relative difference of task means of (tasks, ...) arrays; NaN if the baseline is 0 or less."""
    mean = baseline.mean(axis=0)
    mean = np.where(mean > 0, mean, np.nan)
    return np.asarray((scores.mean(axis=0) - mean) / mean)


def draw_samples(n: int, seeds: int, draws: int, *, key: Sequence[int]) -> tuple[Floats, Floats]:
    """(draws, n) count of each text and (seeds, draws) fraction of each seed in bootstrap samples."""
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


def mean_of_defined(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN, or NaN if there are none."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def sample_dis(scores: Floats, hard: Bools, weights: Floats) -> Floats:
    """(draws,) `difficulty_inversion_score` of (n,) scores by (draws, n) weights; NaN without pairs."""
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
    """(draws,) calibration errors of (n,) bins and correctness minus confidence by (draws, n) weights."""
    table = np.zeros((len(bins), int(bins.max()) + 1))
    table[np.arange(len(bins)), bins] = gaps
    return np.asarray(np.abs(weights @ table).sum(axis=1) / weights.sum(axis=1))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    out = np.zeros_like(numerator)
    return np.asarray(np.divide(numerator, denominator, out=out, where=denominator > 0))
