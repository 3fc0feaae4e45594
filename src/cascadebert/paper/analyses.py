"""The paper's analyses, from stored results alone: shallow layers, confidence by layer, difficulty."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from cascadebert.evaluation.metrics import BINS, bin_indices
from cascadebert.paper import bootstrap_metrics as bootstrap
from cascadebert.paper.comparison import DRAWS, ResultsTable
from cascadebert.paper.early_exit.exits import EXIT_RULES, ExitOutputs, exits_taken
from cascadebert.paper.operating_points import TOLERANCE
from cascadebert.paper.protocol import ObjectiveName, small_name
from cascadebert.paper.results import ResultStore, StoredPredictions, early_exits, log_odds
from cascadebert.types import Floats

METRICS = ("accuracy", "dis", "ece")


def exit_metric(outputs: ExitOutputs, exit_index: int, name: str, weights: Floats) -> Floats:
    """(draws,) values of a metric of one exit, counted from 0, from (draws, n) weights of the texts.

    The name is "accuracy", "dis" (hard texts are the errors) or "ece" (15 bins of equal width).
    """
    correct = outputs.predictions[exit_index] == outputs.labels
    confidences = outputs.confidences[exit_index]
    if name == "dis":
        return bootstrap.sample_dis(log_odds(confidences), ~correct, weights)
    if name == "ece":
        bins = bin_indices(confidences, BINS, "width")
        return bootstrap.sample_ece(bins, correct - confidences, weights)
    return np.asarray(weights @ correct / weights.sum(axis=1))


def objective_effects(
    store: ResultStore, objective: ObjectiveName, *, small: str | None = None, draws: int = DRAWS
) -> list[dict[str, Any]]:
    """Effect of an objective on a small stage alone (default: the first), compared with plain training.

    One line per task and metric with the mean difference over seeds and its bootstrap interval over texts and
    seeds; then the means over "all" tasks.
    """
    protocol = store.protocol
    names = [small_name(small or protocol.small[0], name) for name in (objective, "plain")]
    lines, values, samples = [], [], []
    for number, task in enumerate(protocol.tasks):
        results = store.seed_results(task.name)
        tests = [[result.models[name].test for result in results] for name in names]
        n = len(tests[0][0])
        weights, seed_weights = bootstrap.draw_samples(n, len(protocol.seeds), draws, key=[number, 2])
        for metric in METRICS:
            values.append(bootstrap.mean_of_defined(_differences(tests, metric, np.ones((1, n)))[:, 0]))
            samples.append((_differences(tests, metric, weights) * seed_weights).sum(axis=0))
            difference = bootstrap.difference_values(values[-1], samples[-1])
            lines.append({"task": task.name, "metric": metric, **difference})
    for index, metric in enumerate(METRICS):
        mean = bootstrap.mean_of_defined(values[index :: len(METRICS)])
        mean_samples = np.mean(samples[index :: len(METRICS)], axis=0)
        lines.append({"task": "all", "metric": metric, **bootstrap.difference_values(mean, mean_samples)})
    return lines


def _differences(tests: Sequence[list[ExitOutputs]], metric: str, weights: Floats) -> Floats:
    # (seeds, draws) differences of the two lists of outputs
    ours, plain = ([exit_metric(outputs, 0, metric, weights) for outputs in side] for side in tests)
    return np.stack(ours) - np.stack(plain)


def confidence_by_exit(store: ResultStore) -> list[dict[str, Any]]:
    """Accuracy, DIS and ECE of every early exit and of the small stages, as means over seeds."""
    protocol, lines = store.protocol, []
    stages = [small_name(*pair) for pair in product(protocol.small, protocol.objectives)]
    for task, method in product(protocol.tasks, (*protocol.multi_exit_models, *stages)):
        models = [result.models[method] for result in store.seed_results(task.name)]
        tests = [model.test for model in models]
        full = np.ones((1, len(tests[0])))
        for index, layer in enumerate(models[0].exit_layers):
            line: dict[str, Any] = {"task": task.name, "method": method, "layer": layer}
            for metric in METRICS:
                values = [float(exit_metric(outputs, index, metric, full)[0]) for outputs in tests]
                line[metric] = bootstrap.none_if_undefined(bootstrap.mean_of_defined(values))
            lines.append(line)
    return lines


def complete_against_shallow(store: ResultStore, table: ResultsTable) -> list[dict[str, Any]]:
    """A complete model on exactly the texts that take the early exit of the same cost.

    That is the first exit that costs as much in FLOPs, but for 2 %, so the one after layer k for a model of k
    layers as wide as the large one. The texts are those that take it at the FLOPs points; of a mixture, at
    its faster end. Complete models are those that cost as much as the first exit or more, trained plainly.
    """
    protocol, lines = store.protocol, []
    names = [small_name(encoder, "plain") for encoder in (*protocol.small, *protocol.complete)]
    for task, seed in product(protocol.tasks, protocol.seeds):
        results = store.results(task.name, seed)
        methods = early_exits(protocol).items()
        for (method, (exits, rule)), target, name in product(methods, protocol.targets, names):
            complete, shallow = results.models[name], results.models[exits]
            number = _exit_of_cost(shallow, complete)
            fast = table.runs[task.name, method, seed, "flops", target].point.fast
            exiting = exits_taken(EXIT_RULES[rule](fast[0]), shallow.test) == number
            if number is None or not exiting.any():
                continue
            line = {"task": task.name, "seed": seed, "method": method, "target": target}
            line |= {"layer": shallow.exit_layers[number - 1], "complete": name, "rows": int(exiting.sum())}
            predictions = {"exit": shallow.test.predictions[number - 1]}
            predictions["complete"] = complete.test.predictions[0]
            correct = {name: outputs == shallow.test.labels for name, outputs in predictions.items()}
            line |= {f"{name}_accuracy": float(right[exiting].mean()) for name, right in correct.items()}
            line |= {f"{name}_accuracy_all": float(right.mean()) for name, right in correct.items()}
            lines.append(line)
    return lines


def _exit_of_cost(shallow: StoredPredictions, complete: StoredPredictions) -> int | None:
    """The first exit, counted from 1, that costs as much as a complete model.

    None if that is the last, or the model costs less than the first.
    """
    costs, cost = shallow.flops().mean(axis=1), float(complete.flops().mean())
    number = int(np.searchsorted(costs, cost * (1 - TOLERANCE))) + 1
    return None if cost < costs[0] * (1 - TOLERANCE) or number == len(costs) else number


def confidence_by_difficulty(store: ResultStore) -> list[dict[str, Any]]:
    """Mean confidence on test texts of each difficulty.

    The difficulty of a text is the fraction of the other seeds' small stages, trained plainly, that predict
    it wrongly; with one seed there is none. Early exits are taken at the layer nearest in depth to the small
    stage's, and at their last but one.
    """
    protocol, lines = store.protocol, []
    if len(protocol.seeds) < 2:
        return []
    plain = small_name(protocol.small[0], "plain")
    for task in protocol.tasks:
        results = store.seed_results(task.name)
        tests = [result.models[plain].test for result in results]
        wrong = np.stack([outputs.predictions[0] != outputs.labels for outputs in tests])
        difficulty = [np.delete(wrong, index, axis=0).mean(axis=0) for index in range(len(tests))]
        depth = results[0].models[plain].about.layers
        exits = [(small_name(protocol.small[0], objective), 0) for objective in protocol.objectives]
        for name in protocol.multi_exit_models:
            before = np.array(results[0].models[name].exit_layers[:-1])
            near, last = int(np.abs(before - depth).argmin()), len(before) - 1
            exits += [(name, index) for index in sorted({near, last})]
        for name, index in exits:
            confidences = np.concatenate([result.models[name].test.confidences[index] for result in results])
            for level in np.unique(difficulty):
                texts = np.concatenate(difficulty) == level
                line = {"task": task.name, "method": name, "exit": index + 1, "difficulty": float(level)}
                mean = float(confidences[texts].mean())
                lines.append({**line, "rows": int(texts.sum()), "confidence": mean})
    return lines
