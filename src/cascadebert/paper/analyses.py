"""The paper's analyses, from arrays alone: shallow layers, confidence by layer, difficulty. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from cascadebert.evaluation.calibration_metrics import BINS, bin_numbers
from cascadebert.paper.bootstrap_metrics import (
    bootstrap_delta,
    drawn_dis,
    drawn_ece,
    known_mean,
    percentile_interval,
    row_draws,
    seed_draws,
)
from cascadebert.paper.comparison import DRAWS, ResultsTable
from cascadebert.paper.early_exit.exit_outputs import ExitOutputs
from cascadebert.paper.model_specs import stage
from cascadebert.paper.operating_points import Method
from cascadebert.paper.protocol import EARLY_EXITS, Objective
from cascadebert.paper.results import RULES, ExperimentResults, TaskResults
from cascadebert.paper.stored_predictions import StoredPredictions, to_log_odds
from cascadebert.types import Floats, Ints

TRUST = ("accuracy", "dis", "ece")
Figure = Callable[[Floats], Floats]


def trust_figure(said: ExitOutputs, place: int, name: str) -> Figure:
    """A figure of one exit's confidences, from (draws, n) weights of rows to (draws,).

    Args:
        said: of the test rows, with labels.
        place: which exit, counted from 0.
        name: "accuracy", "dis" (hard: answered wrongly) or "ece" (15 bins of equal width).
    """
    assert said.label_ids is not None
    right, sure = said.answers[place] == said.label_ids, said.confidences[place]
    if name == "dis":
        return partial(drawn_dis, to_log_odds(sure), ~right)
    if name == "ece":
        return partial(drawn_ece, bin_numbers(sure, BINS, "width"), right - sure)
    return lambda weights: np.asarray(weights @ right / weights.sum(axis=1))


def effect_of(
    evidence: ExperimentResults, objective: Objective, *, small: str | None = None, draws: int = DRAWS
) -> list[dict[str, Any]]:
    """What a training term does to a small stage by itself: with it, less without it.

    Args:
        evidence: the arrays.
        objective: the term.
        small: which small stage; default the first.
        draws: bootstrap samples of rows and seeds.

    Returns:
        Per task and figure the mean difference over seeds with its interval; then the mean over "all" tasks.
    """
    protocol = evidence.protocol
    names = [stage(small or protocol.small[0], one) for one in (objective, "plain")]
    values: dict[str, list[float | None]] = {name: [] for name in TRUST}
    samples: dict[str, list[Floats]] = {name: [] for name in TRUST}
    for number, plan in enumerate(protocol.tasks):
        cells = [evidence.trained(plan.name, seed) for seed in protocol.seeds]
        said = [[cell.arrays[name].test for cell in cells] for name in names]
        rows, rng = len(said[0][0]), np.random.default_rng([number, 2])
        drawn = row_draws(rows, draws, rng), seed_draws(len(cells), draws, rng)
        for figure in TRUST:
            sides = [[trust_figure(one, 0, figure) for one in side] for side in said]
            whole = np.ones((1, rows))
            each = [float((a(whole) - b(whole))[0]) for a, b in zip(*sides, strict=True)]
            values[figure].append(known_mean(each))
            samples[figure].append(bootstrap_delta(sides[0], sides[1], *drawn))
    found = []
    for number, plan in enumerate(protocol.tasks):
        found += [_effect(plan.name, one, values[one][number], samples[one][number]) for one in TRUST]
    for one in TRUST:
        mean = known_mean([value for value in values[one] if value is not None])
        found.append(_effect("all", one, mean, np.mean(samples[one], axis=0)))
    return found


def trust_by_exit(evidence: ExperimentResults) -> list[dict[str, Any]]:
    """Accuracy, DIS and ECE of every early exit and of the small stages, means over seeds."""
    protocol, found = evidence.protocol, []
    stages = [stage(one, objective) for one in protocol.small for objective in protocol.objectives]
    for plan in protocol.tasks:
        cells = [evidence.trained(plan.name, seed) for seed in protocol.seeds]
        for method in (*EARLY_EXITS, *stages):
            tests = [cell.arrays[method].test for cell in cells]
            for place in range(tests[0].exits):
                ones = np.ones((1, len(tests[0])))
                figures = {
                    name: known_mean([float(trust_figure(one, place, name)(ones)[0]) for one in tests])
                    for name in TRUST
                }
                layer = place + 1 if method in EARLY_EXITS else cells[0].arrays[method].about.layers
                found.append({"task": plan.name, "method": method, "layer": layer, **figures})
    return found


def complete_against_shallow(evidence: ExperimentResults, table: ResultsTable) -> list[dict[str, Any]]:
    """A complete k-layer model on exactly the rows that an early exit leaves at layer k.

    The exits are those of the FLOPs points; of a mixture, its faster end. Complete models are those as wide
    as the large one, trained plainly.
    """
    protocol, found = evidence.protocol, []
    names = [stage(one, "plain") for one in (*protocol.small, *protocol.complete)]
    for plan in protocol.tasks:
        for seed in protocol.seeds:
            cell = evidence.trained(plan.name, seed)
            same = [n for n in names if cell.arrays[n].about.hidden == cell.large.about.hidden]
            for method, target in product(RULES, protocol.targets):
                point = table.runs[(plan.name, method, seed, "flops", target)].point
                layers = _test_ladder(cell, method).exits(point.fast) + 1
                where = {"task": plan.name, "seed": seed, "method": method, "target": target}
                found += [
                    {**where, **one}
                    for name in same
                    for one in _on_left(cell.arrays[RULES[method][0]], cell.arrays[name], layers)
                ]
    return found


def _on_left(exits: StoredPredictions, complete: StoredPredictions, layers: Ints) -> list[dict[str, Any]]:
    depth, labels = complete.about.layers, exits.test.label_ids
    rows = layers == depth
    if labels is None or not rows.any() or depth >= exits.said.exits:
        return []
    shallow, deep = exits.test.answers[depth - 1], complete.test.answers[0]
    return [
        {
            "layer": depth,
            "complete": complete.about.method,
            "rows": int(rows.sum()),
            "exit_accuracy": float((shallow[rows] == labels[rows]).mean()),
            "complete_accuracy": float((deep[rows] == labels[rows]).mean()),
            "exit_accuracy_all": float((shallow == labels).mean()),
            "complete_accuracy_all": float((deep == labels).mean()),
        }
    ]


def confidence_by_difficulty(evidence: ExperimentResults) -> list[dict[str, Any]]:
    """How sure models are of rows of each difficulty.

    The difficulty of a test row is the share of the other seeds' small stages, trained plainly, that answer
    it wrongly; with one seed there is none. Early exits are taken at the layer nearest in depth to the small
    stage's, and at their last but one.
    """
    protocol, found = evidence.protocol, []
    small = protocol.small[0]
    if len(protocol.seeds) < 2:
        return []
    for plan in protocol.tasks:
        cells = [evidence.trained(plan.name, seed) for seed in protocol.seeds]
        plain = [cell.arrays[stage(small, "plain")].test for cell in cells]
        wrong = np.stack([one.answers[0] != one.label_ids for one in plain])
        for name, place in _confident(cells[0], evidence):
            levels, sure = [], []
            for number, cell in enumerate(cells):
                levels.append(np.delete(wrong, number, axis=0).mean(axis=0))
                sure.append(cell.arrays[name].test.confidences[place])
            found += _by_level(plan.name, name, place + 1, np.concatenate(levels), np.concatenate(sure))
    return found


def _confident(cell: TaskResults, evidence: ExperimentResults) -> list[tuple[str, int]]:
    """Models and exits, counted from 0, whose confidence is looked at."""
    small, objectives = evidence.protocol.small[0], evidence.protocol.objectives
    depth = cell.arrays[stage(small, "plain")].about.layers
    stages = [(stage(small, one), 0) for one in objectives]
    last = cell.arrays[EARLY_EXITS[0]].said.exits - 2
    places = sorted({min(depth - 1, last), last})
    return [*stages, *((name, place) for name in EARLY_EXITS for place in places)]


def _by_level(task: str, method: str, exit_number: int, levels: Floats, sure: Floats) -> list[dict[str, Any]]:
    found = []
    for level in np.unique(levels):
        rows = levels == level
        found.append(
            {
                "task": task,
                "method": method,
                "exit": exit_number,
                "difficulty": float(level),
                "rows": int(rows.sum()),
                "confidence": float(sure[rows].mean()),
            }
        )
    return found


def _test_ladder(cell: TaskResults, method: str) -> Method:
    model, rule = RULES[method]
    return Method(method, rule, cell.arrays[model].test, {}, {})


def _effect(task: str, metric: str, value: float | None, drawn: Floats) -> dict[str, Any]:
    low, high = percentile_interval(drawn)
    return {"task": task, "metric": metric, "delta": value, "ci_low": low, "ci_high": high}
