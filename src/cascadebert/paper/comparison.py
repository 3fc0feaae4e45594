"""The comparison at equal FLOPs and at equal time, from arrays alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from cascadebert.paper.bootstrap_metrics import (
    chance,
    corrected,
    known_mean,
    percentile_interval,
    relative_improvement,
    row_counts,
    row_draws,
    score,
    seed_draws,
)
from cascadebert.paper.operating_points import Method, TargetPoint, curves, pick
from cascadebert.paper.protocol import BASES, LARGE, Basis, ExperimentProtocol, TaskConfig
from cascadebert.paper.results import RULES, TRUNCATED, ExperimentResults, cascade_names
from cascadebert.types import Floats

DRAWS = 1000
GAINS = ("relative_improvement", "ci_low", "ci_high", "chance_corrected", "chance_ci_low", "chance_ci_high")


@dataclass(frozen=True)
class Run:
    """One method on one task and seed, at the point picked for one target: a line of runs.jsonl.

    Attributes:
        task: its name.
        method: its name.
        seed: of the training.
        basis: what the speed-up is counted in.
        target: the speed-up asked for.
        achieved: the speed-up on test rows.
        interpolated: whether it is a random mixture of two points.
        metric: of the task.
        score: on test rows.
    """

    task: str
    method: str
    seed: int
    basis: Basis
    target: float
    achieved: float
    interpolated: bool
    metric: str
    score: float


@dataclass(frozen=True)
class ScoredRun:
    """A run with what is needed to compare it.

    Attributes:
        run: the line.
        point: where it ran.
        tune_score: on tune rows.
        drawn: (draws,) scores on bootstrap samples of the test rows, the same for all runs of a task.
    """

    run: Run
    point: TargetPoint
    tune_score: float
    drawn: Floats


@dataclass(frozen=True)
class ResultsTable:
    """All runs of an experiment, by place.

    Attributes:
        protocol: of the experiment.
        runs: by (task, method, seed, basis, target).
        chances: by task, the score of answering the commonest label.
        shares: by task, (seeds, draws) share of each seed in each bootstrap sample.
    """

    protocol: ExperimentProtocol
    runs: dict[tuple[str, str, int, Basis, float], ScoredRun]
    chances: dict[str, float]
    shares: dict[str, Floats]

    def seeds(self, task: str, method: str, basis: Basis, target: float) -> list[ScoredRun]:
        """The runs of all seeds."""
        return [self.runs[(task, method, seed, basis, target)] for seed in self.protocol.seeds]

    def scores(self, method: str, basis: Basis, target: float) -> Floats:
        """(tasks, 1 + draws) mean score over seeds: as it is, then in each bootstrap sample."""
        return np.stack([self._task_scores(plan, method, basis, target) for plan in self.protocol.tasks])

    def tune_score(self, method: str, basis: Basis, target: float) -> float:
        """Mean over tasks and seeds on tune rows."""
        every = [self.seeds(plan.name, method, basis, target) for plan in self.protocol.tasks]
        return float(np.mean([one.tune_score for seeds in every for one in seeds]))

    def reached(self, method: str, basis: Basis, target: float) -> bool:
        """Whether it has a point as fast as the target in every task and with every seed."""
        every = [self.seeds(plan.name, method, basis, target) for plan in self.protocol.tasks]
        return all(one.point.reached for seeds in every for one in seeds)

    def best(self, methods: Sequence[str], basis: Basis, target: float) -> str:
        """The method with the highest score on the tune rows, of those that reach the target."""
        able = [one for one in methods if self.reached(one, basis, target)]
        return max(able or methods, key=lambda one: self.tune_score(one, basis, target))

    def levels(self) -> Floats:
        """(tasks, 1) scores by chance."""
        return np.array([[self.chances[plan.name]] for plan in self.protocol.tasks])

    def _task_scores(self, plan: TaskConfig, method: str, basis: Basis, target: float) -> Floats:
        judged = self.seeds(plan.name, method, basis, target)
        drawn = np.stack([one.drawn for one in judged])
        itself = np.mean([one.run.score for one in judged])
        return np.concatenate([[itself], (drawn * self.shares[plan.name]).sum(axis=0)])


def score_runs(evidence: ExperimentResults, *, draws: int = DRAWS) -> ResultsTable:
    """Pick every method's points on tune rows and report them on test rows.

    Args:
        evidence: the arrays.
        draws: bootstrap samples of rows and seeds.
    """
    protocol, runs, chances, shares = evidence.protocol, {}, {}, {}
    for number, plan in enumerate(protocol.tasks):
        rng = np.random.default_rng([number, 1])
        large = evidence.trained(plan.name, protocol.seeds[0]).large
        labels, tuned = large.labels, large.about.tune_rows
        common = int(np.bincount(labels[:tuned]).argmax())
        chances[plan.name] = chance(plan.metric, common, labels[tuned:])
        weights = row_draws(len(labels) - tuned, draws, rng)
        shares[plan.name] = seed_draws(len(protocol.seeds), draws, rng)
        for seed in protocol.seeds:
            for one in _judge_cell(evidence, plan, seed, weights):
                run = one.run
                runs[(run.task, run.method, run.seed, run.basis, run.target)] = one
    return ResultsTable(protocol, runs, chances, shares)


def _judge_cell(evidence: ExperimentResults, plan: TaskConfig, seed: int, weights: Floats) -> list[ScoredRun]:
    trained = evidence.trained(plan.name, seed)
    tuned, n = trained.large.about.tune_rows, len(trained.large.labels)
    found = []
    for ladder in trained.ladders(evidence.protocol):
        tune, test = ladder.take(np.arange(tuned)), ladder.take(np.arange(tuned, n))
        for basis, curve in curves(tune, plan.metric).items():
            for target in evidence.protocol.targets:
                point = pick(curve, target)
                found.append(_judged(plan, seed, basis, target, point, tune, test, weights))
    said = trained.large.test
    assert said.label_ids is not None
    counts = row_counts(said.answers[0], said.label_ids)
    value, drawn = float(score(plan.metric, counts.sum(axis=0))), score(plan.metric, weights @ counts)
    for basis in BASES:
        run = Run(plan.name, LARGE, seed, basis, 1.0, 1.0, False, plan.metric, value)
        found.append(ScoredRun(run, TargetPoint(()), value, drawn))
    return found


def _judged(
    plan: TaskConfig,
    seed: int,
    basis: Basis,
    target: float,
    point: TargetPoint,
    tune: Method,
    test: Method,
    weights: Floats,
) -> ScoredRun:
    counts = point.counts(test)
    run = Run(
        task=plan.name,
        method=test.name,
        seed=seed,
        basis=basis,
        target=target,
        achieved=point.speedup(test, basis),
        interpolated=point.interpolated,
        metric=plan.metric,
        score=float(score(plan.metric, counts.sum(axis=0))),
    )
    tune_score = float(score(plan.metric, point.counts(tune).sum(axis=0)))
    return ScoredRun(run, point, tune_score, score(plan.metric, weights @ counts))


def run_lines(table: ResultsTable) -> list[dict[str, Any]]:
    """The lines of runs.jsonl."""
    return [asdict(one.run) for one in table.runs.values()]


def comparisons(table: ResultsTable) -> list[dict[str, Any]]:
    """Every cascade against the best early exit, at every target on both bases.

    The early exit is one method for all tasks, the best on tune rows at that basis and target of those that
    reach it. Relative improvement is of the means over tasks, and None where the cascade or all early exits
    are too slow for the target in some task (`out_of_reach`) or the early exit's mean is not above 0; the
    interval is the percentile bootstrap over rows and seeds.
    """
    found = []
    for basis, target in product(BASES, table.protocol.targets):
        best = table.best(tuple(RULES), basis, target)
        for name in cascade_names(table.protocol):
            both = all(table.reached(one, basis, target) for one in (name, best))
            gains = _gains(table, name, best, basis, target) if both else (None,) * len(GAINS)
            found.append(
                {
                    "basis": basis,
                    "target": target,
                    "cascade": name,
                    "best_early_exit": best,
                    "tasks": [plan.name for plan in table.protocol.tasks],
                    **dict(zip(GAINS, gains, strict=True)),
                }
            )
    return found


def _gains(
    table: ResultsTable, ours: str, theirs: str, basis: Basis, target: float
) -> tuple[float | None, ...]:
    """Relative improvement and both ends of its interval; then the same counted from chance."""
    scores = [table.scores(one, basis, target) for one in (ours, theirs)]
    gains = relative_improvement(*scores)
    fairer = relative_improvement(*(corrected(one, table.levels()) for one in scores))
    both = (gains, fairer)
    return tuple(end for one in both for end in (known_mean([float(one[0])]), *percentile_interval(one[1:])))


def out_of_reach(table: ResultsTable) -> list[dict[str, Any]]:
    """Where a method has no point as fast as the target: it is judged at its fastest, and not compared."""
    protocol, found = table.protocol, []
    for method in (TRUNCATED, *RULES, *cascade_names(protocol)):
        for basis, target in product(BASES, protocol.targets):
            for plan in protocol.tasks:
                slow = [one for one in table.seeds(plan.name, method, basis, target) if not one.point.reached]
                fastest = [one.run.achieved for one in slow]
                where = {"task": plan.name, "method": method, "basis": basis, "target": target}
                found += [{**where, "seeds": len(slow), "fastest": max(fastest)}] if slow else []
    return found


def against(table: ResultsTable, other: str | None) -> list[dict[str, Any]]:
    """Every cascade that reaches the target less another method, mean over tasks of the metric.

    Args:
        table: of all runs.
        other: "large"; None for the same cascade with its small stages trained plainly.
    """
    found = []
    places = product(cascade_names(table.protocol), BASES, table.protocol.targets)
    for name, basis, target in places:
        rival = other or f"{name.rpartition('-')[0]}-plain"
        if rival == name or not table.reached(name, basis, target):
            continue
        ours = table.scores(name, basis, target)
        delta = (ours - table.scores(rival, basis, 1.0 if other == LARGE else target)).mean(axis=0)
        low, high = percentile_interval(delta[1:])
        where = {"cascade": name, "basis": basis, "target": target}
        found.append({**where, "delta": float(delta[0]), "ci_low": low, "ci_high": high})
    return found


def picked(table: ResultsTable) -> list[dict[str, Any]]:
    """The cascade that is best on the tune rows, at every target on both bases."""
    names = cascade_names(table.protocol)
    return [
        {"basis": basis, "target": target, "cascade": table.best(names, basis, target)}
        for basis in BASES
        for target in table.protocol.targets
    ]
