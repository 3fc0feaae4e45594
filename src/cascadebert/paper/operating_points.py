"""Operating points of each method, and the one that is selected for a target speed-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from cascadebert.paper.bootstrap_metrics import metric_counts, metric_score
from cascadebert.paper.early_exit.exits import EXIT_RULES, ExitOutputs, exits_taken
from cascadebert.paper.protocol import Basis, MetricName
from cascadebert.thresholds.select import exit_stages
from cascadebert.types import Floats, Ints

Setting = tuple[float, ...]
"""A threshold, a patience or the number of a model; for a cascade one threshold per stage but the last."""
RuleName = Literal["fixed", "entropy", "confidence", "patience", "learned", "cascade"]

TOLERANCE = 0.02
"""Relative excess over a target speed-up up to which a point counts as being at the target."""
FINE_GRID, COARSE_GRID = 512, 28


@dataclass(frozen=True)
class Method:
    """A method on n texts: the exits that they can take, and their costs."""

    name: str
    rule: RuleName
    outputs: ExitOutputs  # (m exits, n texts), with labels
    costs: Mapping[Basis, Floats]  # (m, n) cost of a text that takes each exit
    large_costs: Mapping[Basis, Floats]  # (n,) cost at the large model alone
    models: tuple[str, ...] = ()  # names of its models

    def take(self, positions: slice) -> Method:
        """The method on the texts at the given positions."""
        costs = {basis: table[:, positions] for basis, table in self.costs.items()}
        large_costs = {basis: row[positions] for basis, row in self.large_costs.items()}
        return replace(self, outputs=self.outputs.take(positions), costs=costs, large_costs=large_costs)

    def exits(self, setting: Setting) -> Ints:
        """(n,) exit of each text, counted from 0."""
        if self.rule == "cascade":
            return exit_stages(self.outputs.confidences, setting)
        return exits_taken(EXIT_RULES[self.rule](setting[0]), self.outputs) - 1

    def settings(self) -> list[Setting]:
        """All settings to try on these texts."""
        exits = self.outputs.num_exits
        if self.rule == "fixed":
            return [(float(number),) for number in range(1, exits + 1)]
        if self.rule == "patience":
            return [(float(times),) for times in range(exits)]
        if self.rule == "cascade":
            size = FINE_GRID if exits == 2 else COARSE_GRID
            return list(product(*(_grid(row, size) for row in self.outputs.confidences[:-1])))
        outputs = self.outputs
        values = {"entropy": outputs.entropies, "confidence": outputs.confidences, "learned": outputs.lte}[
            self.rule
        ]
        assert values is not None
        return [(threshold,) for threshold in _grid(values[:-1].ravel(), FINE_GRID)]

    def counts(self, exits: Ints) -> Floats:
        """(n, 5) `metric_counts` of texts that take the (n,) exits, counted from 0."""
        return metric_counts(self.outputs.predictions_at(exits + 1), self.outputs.labels)

    def mean_cost(self, exits: Ints, basis: Basis) -> float:
        """Mean cost of texts that take the (n,) exits, counted from 0."""
        return float(self.costs[basis][exits, np.arange(len(exits))].mean())


@dataclass(frozen=True)
class OperatingCurve:
    """Points of a method on the tuning set, from slow to fast."""

    settings: tuple[Setting, ...]
    costs: Floats  # (points,) mean cost of a text, falling
    large_cost: float  # mean cost of a text at the large model alone
    scores: Floats  # (points,) on the tuning set; 0 for a single threshold, where there is nothing to select

    @property
    def speedups(self) -> Floats:
        """(points,) speed-ups over the large model alone, rising."""
        return np.asarray(self.large_cost / self.costs)


@dataclass(frozen=True)
class TargetPoint:
    """One setting of a method, or a mixture: each text runs at one of two settings, drawn at random."""

    fast: Setting
    slow: Setting | None = None
    slow_fraction: float = 0.0  # probability that a text runs at the slow setting
    reached: bool = True  # False if the tuning set is not as fast here as the target

    def counts(self, method: Method) -> Floats:
        """(n, 5) expected `metric_counts` of each text."""
        return np.asarray(sum(p * method.counts(exits) for exits, p in self._mixture(method)))

    def speedup(self, method: Method, basis: Basis) -> float:
        """Cost of the large model alone over the expected cost."""
        cost = sum(p * method.mean_cost(exits, basis) for exits, p in self._mixture(method))
        return float(method.large_costs[basis].mean() / cost)

    def _mixture(self, method: Method) -> list[tuple[Ints, float]]:
        # (n,) exits at each setting, with its probability
        mixture = [(method.exits(self.fast), 1 - self.slow_fraction)]
        if self.slow is not None:
            mixture.append((method.exits(self.slow), self.slow_fraction))
        return mixture


def operating_curves(method: Method, metric: MetricName) -> dict[Basis, OperatingCurve]:
    """All points of a method on the tuning set; the metric selects among several thresholds."""
    settings = method.settings()
    exits = [method.exits(setting) for setting in settings]
    scores = np.zeros(len(settings))
    if len(settings[0]) > 1:
        scores = metric_score(metric, np.stack([method.counts(taken).sum(axis=0) for taken in exits]))
    curves = {}
    for basis in method.costs:
        costs = np.array([method.mean_cost(taken, basis) for taken in exits])
        order = np.argsort(-costs, kind="stable")
        large_cost = float(method.large_costs[basis].mean())
        ordered = tuple(settings[i] for i in order)
        curves[basis] = OperatingCurve(ordered, costs[order], large_cost, scores[order])
    return curves


def select_point(curve: OperatingCurve, target: float) -> TargetPoint:
    """The slowest point that reaches a target speed-up; if it is much faster, a mixture with the next slower.

    Among several thresholds that reach it, within the tolerance, those with the best score on the tuning set.
    The expected cost of a mixture is that of the target. A method without a slower point is taken at its
    slowest, one that does not reach the target at its fastest.
    """
    speedups = curve.speedups
    first = int(np.searchsorted(speedups, target * (1 - 1e-9), side="left"))
    if first == len(speedups):
        return TargetPoint(curve.settings[-1], reached=False)
    end = int(np.searchsorted(speedups, target * (1 + TOLERANCE), side="right"))
    if first == 0 or end > first:
        return TargetPoint(curve.settings[first + int(curve.scores[first : max(end, first + 1)].argmax())])
    fast, slow = curve.costs[first], curve.costs[first - 1]
    slow_fraction = float((curve.large_cost / target - fast) / (slow - fast))
    return TargetPoint(curve.settings[first], curve.settings[first - 1], slow_fraction)


def _grid(observed: Floats, size: int) -> list[float]:
    # midpoints between observed values at even quantiles, and one threshold outside on either side
    values = np.unique(observed)
    below = np.unique(np.sort(observed)[np.linspace(0, len(observed) - 1, size).astype(np.int64)])
    below = below[below < values[-1]]
    above = values[np.searchsorted(values, below, side="right")]
    ends = [np.nextafter(values[0], -np.inf), np.nextafter(values[-1], np.inf)]
    thresholds: list[float] = np.unique(np.concatenate([below + (above - below) / 2, ends])).tolist()
    return thresholds
