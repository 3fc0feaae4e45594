"""Timings of every model of a task: wall-clock runs, fitted per exit, checked on complete runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from typing_extensions import override

from cascadebert.environment import commit, machine, versions
from cascadebert.errors import extra
from cascadebert.evaluation.cost_model import TIMED_GROUPS, fit_latency
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.torch import has_cuda
from cascadebert.inference.stage import BATCH_TOKENS, Stage
from cascadebert.paper.early_exit.exits import EXIT_RULES, ExitRule, FixedExit
from cascadebert.paper.early_exit.inference import EarlyExitPredictor, run_early_exit
from cascadebert.paper.operating_points import Method, Setting, TargetPoint, operating_curves, select_point
from cascadebert.paper.protocol import LARGE
from cascadebert.paper.results import ResultStore, TaskResults, TimingCheck, Timings, timing_key
from cascadebert.paper.task_data import PARTS
from cascadebert.paper.training import Experiment
from cascadebert.thresholds.confidence import Score
from cascadebert.thresholds.routing import decide
from cascadebert.timing import interleaved
from cascadebert.training.trainer import log
from cascadebert.types import Bools, Ints, LinearLatency

with extra("train"):
    import torch

TIMED_TEXTS, REPEATS = 512, 3


@dataclass(frozen=True)
class ExitAt(FixedExit):
    """`FixedExit` that evaluates all exits until then: the cost of an early exit there."""

    needs_lte: bool = False

    @override
    def evaluated_exits(self, num_exits: int) -> Bools:
        return ExitRule.evaluated_exits(self, num_exits)


@dataclass(frozen=True)
class TimedModel:
    """A stage or a multi-exit model, with the tokens of the test set."""

    model: Stage | EarlyExitPredictor
    tokens: TokenizedTexts

    @property
    def num_exits(self) -> int:
        """Number of exits; a stage has one."""
        return 1 if isinstance(self.model, Stage) else self.model.model.num_exits

    def run(self, exit_number: int = 1, positions: Ints | None = None) -> object:
        """Run the texts at the positions (default: all) up to an exit, counted from 1."""
        if isinstance(self.model, Stage):
            return self.model.logits(self.tokens, positions)
        rule = ExitAt(exit_number, self.model.rule.needs_lte)
        return run_early_exit(self.model.model, self.tokens, rule, positions=positions)


def time_models(
    experiment: Experiment, store: ResultStore, *, texts: int = TIMED_TEXTS, repeats: int = REPEATS
) -> Timings:
    """Time every trained model on a sample of its test set, and check the fitted seconds on all of it.

    Tokenization is left out, as it is the same for all. Batches are those of inference: texts of one padded
    length, within one budget of tokens; texts that do not exit are packed into full batches again. The sample
    is evenly spaced over the test set, and all models run in turn.
    """
    log.info("%s: timing", experiment.task.name)
    models = _open_models(experiment)
    count = len(experiment.data.test)
    sample = np.linspace(0, count - 1, min(count, texts)).astype(np.int64)
    sample = sample[np.argsort(models[LARGE].tokens.lengths[sample], kind="stable")]
    groups = [group for group in np.array_split(sample, TIMED_GROUPS) if len(group)]
    exits = [(name, k) for name, model in models.items() for k in range(1, model.num_exits + 1)]
    runs = [partial(models[name].run, k, group) for name, k in exits for group in groups]
    medians = np.median(interleaved(runs, repeats=repeats), axis=1).reshape(len(exits), len(groups))
    seconds: dict[str, tuple[LinearLatency, ...]] = {name: () for name in models}
    for (name, _), taken in zip(exits, medians, strict=True):
        seconds[name] += (fit_latency(models[name].tokens.padded_lengths, groups, taken),)
    where = {
        "machine": machine(),
        "device": "cuda" if has_cuda() else "cpu",
        "threads": torch.get_num_threads(),
        "engine": "torch float32",
        "batch_tokens": BATCH_TOKENS,
        "versions": versions(),
        "commit": commit(),
        "rows": {part: len(getattr(experiment.data, part)) for part in PARTS},
        "data_sha256": dict(zip(PARTS, experiment.data.fingerprints, strict=True)),
        "models": experiment.fingerprints,
    }
    timings = Timings(seconds, (), len(sample), repeats, where)
    return replace(timings, checks=_checks(experiment, store, models, timings))


def _open_models(experiment: Experiment) -> dict[str, TimedModel]:
    # one model of each shape; small stages with the objective of the cascades that are checked
    protocol, models = experiment.protocol, dict[str, TimedModel]()
    for spec in protocol.models().values():
        if spec.timed_as in models or (
            spec.source in protocol.small and spec.objective != protocol.main_objective
        ):
            continue
        model = experiment.open_exits(spec) if spec.kind == "exits" else experiment.open_stage(spec)
        models[spec.timed_as] = TimedModel(model, model.tokenizer.encode(experiment.data.test.texts))
    return models


def _checks(
    experiment: Experiment, store: ResultStore, models: dict[str, TimedModel], timings: Timings
) -> tuple[TimingCheck, ...]:
    # complete methods on the whole test set at the points selected on the tuning set
    task, protocol = experiment.task, experiment.protocol
    results = TaskResults(store.models(task.name, experiment.seed), timings)
    runs: list[Callable[[], object]] = [models[LARGE].run]
    points: list[tuple[str, Setting, float]] = []
    methods = results.methods(protocol, [protocol.main_objective])[:-1]
    for method in {timing_key(method.name): method for method in reversed(methods)}.values():
        tune, test = results.split(method)
        curve = operating_curves(tune, task.metric)["time"]
        for setting in dict.fromkeys(select_point(curve, target).fast for target in protocol.targets):
            points.append((method.name, setting, TargetPoint(setting).speedup(test, "time")))
            timed = [models[results.models[name].about.timed_as] for name in method.models]
            runs.append(_complete_run(method, setting, timed))
    seconds = np.array(interleaved(runs, repeats=timings.repeats))
    return tuple(
        TimingCheck(*point, float(np.median(speedups)), float(speedups.min()), float(speedups.max()))
        for point, speedups in zip(points, seconds[0] / seconds[1:], strict=True)
    )


def _complete_run(method: Method, setting: Setting, models: list[TimedModel]) -> Callable[[], object]:
    first = models[0]
    if isinstance(first.model, EarlyExitPredictor):
        rule = EXIT_RULES[method.rule](setting[0])
        return partial(run_early_exit, first.model.model, first.tokens, rule)
    if method.rule == "fixed":
        return models[int(setting[0]) - 1].run
    return partial(_run_cascade, models, setting)


def _run_cascade(models: list[TimedModel], thresholds: Setting) -> None:
    # the loop of `inference.cascade.route` without tokenization
    active = np.arange(len(models[0].tokens))
    for timed, threshold in zip(models, (*thresholds, None), strict=True):
        if not len(active):
            return
        assert isinstance(timed.model, Stage)
        logits = timed.model.logits(timed.tokens, active)
        active = active[~decide(logits, temperature=1.0, score=Score(), threshold=threshold).exits]
