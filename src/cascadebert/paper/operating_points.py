"""Where each method can run, and the point that is picked for a target. Pure: arrays in, values out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from cascadebert.paper.bootstrap_metrics import row_counts, score
from cascadebert.paper.early_exit.exit_outputs import ExitOutputs
from cascadebert.paper.early_exit.exit_rules import (
    EntropyThreshold,
    ExitRule,
    LearnedExitThreshold,
    Patience,
    exit_layers,
)
from cascadebert.paper.protocol import Basis, MetricName
from cascadebert.thresholds.select import exit_stages
from cascadebert.types import Floats, Ints

Setting = tuple[float, ...]
"""A threshold, patience or number of a model; of a cascade one threshold per stage but the last."""
RuleName = Literal["fixed", "entropy", "patience", "learned", "cascade"]

TOLERANCE = 0.02
"""A point at most so much faster than the target is a point at the target."""
FINE_GRID, COARSE_GRID = 512, 28


@dataclass(frozen=True)
class Method:
    """One method on some rows: where rows may leave, and what that costs.

    Attributes:
        name: of the method.
        rule: what decides.
        said: (m exits, n rows), with labels.
        costs: per basis, (m, n) what a row costs that leaves at each exit.
        alone: per basis, (n,) what it costs at the large model alone.
    """

    name: str
    rule: RuleName
    said: ExitOutputs
    costs: Mapping[Basis, Floats]
    alone: Mapping[Basis, Floats]

    def take(self, rows: Ints) -> Method:
        """The rows at the given positions."""
        costs = {basis: one[:, rows] for basis, one in self.costs.items()}
        alone = {basis: one[rows] for basis, one in self.alone.items()}
        return Method(self.name, self.rule, self.said.take(rows), costs, alone)

    def exits(self, setting: Setting) -> Ints:
        """(n,) where each row leaves, counted from 0."""
        if self.rule == "fixed":
            return np.full(len(self.said), int(setting[0]) - 1)
        if self.rule == "cascade":
            return exit_stages(self.said.confidences, setting)
        return exit_layers(exit_rule(self.rule, setting), self.said) - 1

    def settings(self) -> list[Setting]:
        """All that are tried on these rows."""
        last = self.said.exits
        if self.rule == "fixed":
            return [(float(number),) for number in range(1, last + 1)]
        if self.rule == "patience":
            return [(float(times),) for times in range(last)]
        if self.rule == "cascade":
            size = FINE_GRID if last == 2 else COARSE_GRID
            return list(product(*(_grid(one, size) for one in self.said.confidences[:-1])))
        seen = self.said.entropies if self.rule == "entropy" else self.said.lte
        assert seen is not None
        return [(one,) for one in _grid(seen[:-1].ravel(), FINE_GRID)]

    def counts(self, setting: Setting) -> Floats:
        """(n, 5) what each row adds to the sums behind a metric."""
        assert self.said.label_ids is not None
        return row_counts(self.said.answered(self.exits(setting) + 1), self.said.label_ids)

    def mean_cost(self, setting: Setting, basis: Basis) -> float:
        """Of a row."""
        exits = self.exits(setting)
        return float(self.costs[basis][exits, np.arange(len(exits))].mean())


def exit_rule(name: RuleName, setting: Setting) -> ExitRule:
    """The rule of an early exit at a setting."""
    kinds: dict[str, Callable[[float], ExitRule]] = {
        "entropy": EntropyThreshold,
        "learned": LearnedExitThreshold,
        "patience": lambda times: Patience(int(times)),
    }
    return kinds[name](setting[0])


@dataclass(frozen=True)
class OperatingCurve:
    """Points of a method on the tune rows, from slow to fast.

    Attributes:
        settings: (points,).
        speedups: (points,) rising.
        costs: (points,) mean cost of a row.
        alone: mean cost of a row at the large model alone.
        scores: (points,) on the tune rows; 0 with one threshold, where there is nothing to choose.
    """

    settings: tuple[Setting, ...]
    speedups: Floats
    costs: Floats
    alone: float
    scores: Floats


@dataclass(frozen=True)
class TargetPoint:
    """Where a method runs: at one setting, or each row at one of two, drawn by chance.

    Attributes:
        fast: a setting.
        slow: another, or None.
        slow_share: chance that a row runs at it.
        reached: whether the tune rows are as fast there as was asked for.
    """

    fast: Setting
    slow: Setting | None = None
    slow_share: float = 0.0
    reached: bool = True

    @property
    def interpolated(self) -> bool:
        """Whether it is a mixture."""
        return self.slow is not None

    def counts(self, ladder: Method) -> Floats:
        """(n, 5) expected counts of each row."""
        found = ladder.counts(self.fast)
        if self.slow is None:
            return found
        return np.asarray((1 - self.slow_share) * found + self.slow_share * ladder.counts(self.slow))

    def speedup(self, ladder: Method, basis: Basis) -> float:
        """Cost of the large model alone over the expected cost."""
        cost = ladder.mean_cost(self.fast, basis)
        if self.slow is not None:
            cost = (1 - self.slow_share) * cost + self.slow_share * ladder.mean_cost(self.slow, basis)
        return float(ladder.alone[basis].mean() / cost)


def curves(ladder: Method, metric: MetricName) -> dict[Basis, OperatingCurve]:
    """All points of a method on tune rows.

    Args:
        ladder: of the tune rows.
        metric: by which several thresholds are chosen among.
    """
    settings = ladder.settings()
    exits = [ladder.exits(one) for one in settings]
    rows, found = np.arange(len(ladder.said)), {}
    scores = np.zeros(len(settings))
    if settings and len(settings[0]) > 1:
        assert ladder.said.label_ids is not None
        labels = ladder.said.label_ids
        sums = [row_counts(ladder.said.answered(one + 1), labels).sum(axis=0) for one in exits]
        scores = score(metric, np.stack(sums))
    for basis, table in ladder.costs.items():
        costs = np.array([table[one, rows].mean() for one in exits])
        order = np.argsort(-costs, kind="stable")
        alone = float(ladder.alone[basis].mean())
        chosen = tuple(settings[i] for i in order)
        found[basis] = OperatingCurve(chosen, alone / costs[order], costs[order], alone, scores[order])
    return found


def pick(curve: OperatingCurve, target: float) -> TargetPoint:
    """The slowest point that is as fast as the target; where it is much faster, a mixture of its neighbours.

    Of several thresholds that are as fast, within the tolerance, those with the best score on the tune rows.
    A row runs at the fast one or at the slow one by chance, so that the expected cost is that of the target.
    A method that has no slower point is taken at its slowest, one that is nowhere as fast at its fastest.

    >>> curve = OperatingCurve(((2.0,), (1.0,)), np.array([1.5, 3.0]), np.array([2.0, 1.0]), 3.0, np.zeros(2))
    >>> pick(curve, 2.0)
    TargetPoint(fast=(1.0,), slow=(2.0,), slow_share=0.5, reached=True)
    """
    first = int(np.searchsorted(curve.speedups, target * (1 - 1e-9), side="left"))
    if first == len(curve.speedups):
        return TargetPoint(curve.settings[-1], reached=False)
    end = int(np.searchsorted(curve.speedups, target * (1 + TOLERANCE), side="right"))
    if first == 0 or end > first:
        return TargetPoint(curve.settings[first + int(curve.scores[first : max(end, first + 1)].argmax())])
    wanted, fast, slow = curve.alone / target, curve.costs[first], curve.costs[first - 1]
    share = float((wanted - fast) / (slow - fast))
    return TargetPoint(curve.settings[first], curve.settings[first - 1], share)


def cumulated(stages: Sequence[Floats]) -> Floats:
    """(m, n) what rows of a cascade cost that leave at each stage, from what each stage costs.

    Args:
        stages: (n,) each.
    """
    return np.asarray(np.cumsum(np.stack(stages), axis=0))


def _grid(seen: Floats, size: int) -> list[float]:
    """Thresholds between values that were seen, at even quantiles, and one outside on either side."""
    values = np.unique(seen)
    kept = np.unique(np.sort(seen)[np.linspace(0, len(seen) - 1, size).astype(np.int64)])
    kept = kept[kept < values[-1]]
    after = values[np.searchsorted(values, kept, side="right")]
    middle = kept + (after - kept) / 2
    ends = [np.nextafter(values[0], -np.inf), np.nextafter(values[-1], np.inf)]
    return [float(one) for one in np.unique(np.concatenate([middle, ends]))]
