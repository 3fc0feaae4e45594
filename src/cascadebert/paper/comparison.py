"""The comparison of methods at equal FLOPs and at equal time, from stored results alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from cascadebert.paper import bootstrap_metrics as bootstrap
from cascadebert.paper.operating_points import TargetPoint, operating_curves, select_point
from cascadebert.paper.protocol import BASELINES, BASES, LARGE, Basis, ExperimentProtocol, TaskConfig
from cascadebert.paper.results import (
    STUDENT,
    TRUNCATED,
    ResultStore,
    TaskResults,
    cascade_names,
    early_exits,
)
from cascadebert.types import Floats

DRAWS = 1000
GAINS = ("relative_improvement", "ci_low", "ci_high", "chance_corrected", "chance_ci_low", "chance_ci_high")


@dataclass(frozen=True)
class Run:
    """One method on one task and seed, at the point selected for one target: a line of runs.jsonl."""

    task: str
    method: str
    seed: int
    basis: Basis
    target: float  # the requested speed-up
    achieved: float  # the speed-up on the test set
    interpolated: bool  # whether the point is a mixture of two settings
    metric: str
    score: float  # on the test set


@dataclass(frozen=True)
class ScoredRun:
    """A run and all that is needed to compare it."""

    run: Run
    point: TargetPoint
    tune_score: float
    samples: Floats  # (draws,) scores on bootstrap samples of the test set, the same for all runs of a task


@dataclass(frozen=True)
class ResultsTable:
    """All runs of an experiment."""

    protocol: ExperimentProtocol
    runs: dict[tuple[str, str, int, Basis, float], ScoredRun]  # by (task, method, seed, basis, target)
    chances: dict[str, float]  # by task, the score of always predicting the most common label
    seed_weights: dict[str, Floats]  # by task, (seeds, draws) from `draw_samples`

    def task_runs(self, task: str, method: str, basis: Basis, target: float) -> list[ScoredRun]:
        """The runs on one task, one per seed."""
        return [self.runs[task, method, seed, basis, target] for seed in self.protocol.seeds]

    def method_runs(self, method: str, basis: Basis, target: float) -> list[ScoredRun]:
        """The runs on all tasks with all seeds."""
        tasks = self.protocol.tasks
        return [run for task in tasks for run in self.task_runs(task.name, method, basis, target)]

    def scores(self, method: str, basis: Basis, target: float) -> Floats:
        """(tasks, 1 + draws) mean score over seeds: on the test set, then on each bootstrap sample."""
        rows = []
        for task in self.protocol.tasks:
            runs = self.task_runs(task.name, method, basis, target)
            samples = np.stack([run.samples for run in runs]) * self.seed_weights[task.name]
            rows.append(np.concatenate([[np.mean([run.run.score for run in runs])], samples.sum(axis=0)]))
        return np.stack(rows)

    def reached(self, method: str, basis: Basis, target: float) -> bool:
        """True if the method reaches the target in every task with every seed."""
        return all(run.point.reached for run in self.method_runs(method, basis, target))

    def best(self, methods: Sequence[str], basis: Basis, target: float) -> str:
        """The method with the best score on the tuning sets, among those that reach the target, if any."""
        methods = [method for method in methods if self.reached(method, basis, target)] or methods
        runs = {method: self.method_runs(method, basis, target) for method in methods}
        return max(runs, key=lambda method: float(np.mean([run.tune_score for run in runs[method]])))


def score_runs(store: ResultStore, *, draws: int = DRAWS) -> ResultsTable:
    """Select the points of every method on the tuning sets and score them on the test sets."""
    protocol = store.protocol
    table = ResultsTable(protocol, runs={}, chances={}, seed_weights={})
    for number, task in enumerate(protocol.tasks):
        large = store.results(task.name, protocol.seeds[0]).large
        tune_labels, test_labels = np.split(large.outputs.labels, [large.about.tune_rows])
        most_common = int(np.bincount(tune_labels).argmax())
        table.chances[task.name] = bootstrap.chance_score(task.metric, most_common, test_labels)
        sizes = (len(test_labels), len(protocol.seeds), draws)
        weights, table.seed_weights[task.name] = bootstrap.draw_samples(*sizes, key=[number, 1])
        for seed, results in zip(protocol.seeds, store.seed_results(task.name), strict=True):
            _score_seed(table, task, seed, results, weights)
    return table


def _score_seed(
    table: ResultsTable, task: TaskConfig, seed: int, results: TaskResults, weights: Floats
) -> None:
    for method in results.methods(table.protocol, table.protocol.objectives):
        tune, test = results.split(method)
        curves = operating_curves(tune, task.metric)
        targets = (1.0,) if method.name == LARGE else table.protocol.targets
        for basis, target in product(curves, targets):
            point = select_point(curves[basis], target)
            counts, speedup = point.counts(test), point.speedup(test, basis)
            sums = (counts.sum(axis=0), point.counts(tune).sum(axis=0))
            score, tune_score = (float(bootstrap.metric_score(task.metric, total)) for total in sums)
            key = (task.name, method.name, seed, basis, target)
            run = Run(*key, speedup, point.slow is not None, task.metric, score)
            samples = bootstrap.metric_score(task.metric, weights @ counts)
            table.runs[key] = ScoredRun(run, point, tune_score, samples)


def comparisons(table: ResultsTable) -> list[dict[str, Any]]:
    """Every cascade against the best early exit, at every target on both bases.

    The early exit is one method for all tasks, the best on the tuning sets at that basis and target among
    those that reach it: once of the `published` ones, where there are any, and once of all. The relative
    improvement is of the means over tasks, and None where the cascade or all early exits are too slow for the
    target in some task (`out_of_reach`) or the mean of the early exit is not above 0; the interval is the
    percentile bootstrap over texts and seeds.
    """
    lines, names = [], {kind: tuple(early_exits(table.protocol, kind)) for kind in BASELINES}
    if names["published"] == names["strengthened"]:
        del names["strengthened"]
    for (kind, methods), basis, target in product(names.items(), BASES, table.protocol.targets):
        if not methods:
            continue
        best = table.best(methods, basis, target)
        for name in cascade_names(table.protocol):
            gains: dict[str, float | None] = dict.fromkeys(GAINS)
            if table.reached(name, basis, target) and table.reached(best, basis, target):
                gains = _gains(table, table.scores(name, basis, target), table.scores(best, basis, target))
            line: dict[str, Any] = {"basis": basis, "target": target, "cascade": name, "baselines": kind}
            line |= {"best_early_exit": best, "tasks": [task.name for task in table.protocol.tasks]}
            lines.append({**line, **gains})
    return lines


def _gains(table: ResultsTable, scores: Floats, baseline: Floats) -> dict[str, float | None]:
    # the relative improvement with its interval, then the same with scores corrected for chance
    chances = np.array([[table.chances[task.name]] for task in table.protocol.tasks])
    corrected = [bootstrap.correct_for_chance(values, chances) for values in (scores, baseline)]
    gains: list[float | None] = []
    for pair in ((scores, baseline), corrected):
        gain, *samples = bootstrap.relative_improvement(*pair)
        gains += bootstrap.interval_values(gain, np.array(samples))
    return dict(zip(GAINS, gains, strict=True))


def out_of_reach(table: ResultsTable) -> list[dict[str, Any]]:
    """Methods and targets without a point that is fast enough: scored at the fastest, but not compared."""
    protocol, lines = table.protocol, []
    students = [STUDENT] if protocol.students else []
    methods = (TRUNCATED, *students, *early_exits(protocol), *cascade_names(protocol))
    for method, basis, target, task in product(methods, BASES, protocol.targets, protocol.tasks):
        runs = table.task_runs(task.name, method, basis, target)
        achieved = [run.run.achieved for run in runs if not run.point.reached]
        if achieved:
            line = {"task": task.name, "method": method, "basis": basis, "target": target}
            lines.append({**line, "seeds": len(achieved), "fastest": max(achieved)})
    return lines


def compare_cascades(table: ResultsTable, baseline: str | None) -> list[dict[str, Any]]:
    """Mean score over tasks of every cascade that reaches the target minus that of a baseline.

    The baseline is "large", "student", or None for the same cascade with its small stages trained plainly.
    """
    lines = []
    for name, basis, target in product(cascade_names(table.protocol), BASES, table.protocol.targets):
        other = baseline or f"{name.rpartition('-')[0]}-plain"
        if other == name or not table.reached(name, basis, target):
            continue
        values = _difference(table, name, other, basis, target)
        lines.append({"cascade": name, "basis": basis, "target": target, **values})
    return lines


def gain_parts(table: ResultsTable) -> list[dict[str, Any]]:
    """The best cascade's lead over the best early exit in two parts, at every target on both bases.

    `complete` is a student of the same cost less the early exit: a complete model instead of one that is
    left early. `routing` is the cascade less that student: two complete models instead of one. Cascade and
    early exit are the best on the tuning sets.
    """
    protocol, lines = table.protocol, []
    for best, part in product(best_cascades(table), ("complete", "routing") if protocol.students else ()):
        basis, target = best["basis"], best["target"]
        exits = table.best(tuple(early_exits(protocol)), basis, target)
        first, second = (STUDENT, exits) if part == "complete" else (best["cascade"], STUDENT)
        line = {**best, "early_exit": exits, "part": part}
        lines.append({**line, **_difference(table, first, second, basis, target)})
    return lines


def _difference(table: ResultsTable, name: str, other: str, basis: Basis, target: float) -> dict[str, Any]:
    """The mean score of one method minus that of another, with its interval."""
    other_scores = table.scores(other, basis, 1.0 if other == LARGE else target)
    delta = (table.scores(name, basis, target) - other_scores).mean(axis=0)
    return bootstrap.difference_values(delta[0], delta[1:])


def best_cascades(table: ResultsTable) -> list[dict[str, Any]]:
    """The cascade that is best on the tuning sets, at every target on both bases."""
    names = cascade_names(table.protocol)
    return [
        {"basis": basis, "target": target, "cascade": table.best(names, basis, target)}
        for basis, target in product(BASES, table.protocol.targets)
    ]
