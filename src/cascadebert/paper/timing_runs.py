"""Seconds of every model of a task: real runs in one engine, fitted per exit, checked on whole runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from cascadebert.environment import commit, machine, versions
from cascadebert.errors import extra
from cascadebert.evaluation.cost_model import TIMED_GROUPS, fit_latency
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.torch import has_cuda
from cascadebert.inference.stage import BATCH_TOKENS, Stage
from cascadebert.paper.early_exit.exit_outputs import ExitOutputs
from cascadebert.paper.early_exit.inference import EarlyExitPredictor, run_early_exit
from cascadebert.paper.model_specs import ResultStore, model_specs, stage, truncated
from cascadebert.paper.operating_points import Method, Setting, curves, exit_rule, pick
from cascadebert.paper.protocol import LARGE, Objective
from cascadebert.paper.results import RULES, TaskResults
from cascadebert.paper.stored_predictions import StoredPredictions
from cascadebert.paper.timings import TimingCheck, Timings
from cascadebert.paper.training import Experiment
from cascadebert.thresholds.confidence import Score
from cascadebert.thresholds.routing import decide
from cascadebert.timing import interleaved
from cascadebert.training.trainer import log
from cascadebert.types import Bools, Ints, LinearLatency

with extra("train"):
    import torch

TIMED_ROWS, REPEATS = 512, 3
Opened = Stage | EarlyExitPredictor


@dataclass(frozen=True)
class AllLeaveAt:
    """Every row leaves after one layer, and every exit until then is asked: what leaving there costs.

    Attributes:
        layer: counted from 1.
    """

    layer: int
    reads_lte: ClassVar[bool] = False

    def tried(self, exits: int) -> Bools:
        """All of them."""
        return np.ones(exits, dtype=np.bool_)

    def leaves(self, said: ExitOutputs, layer: int) -> Bools:
        """(n,) all, at its layer."""
        return np.full(len(said), layer == self.layer)


@dataclass(frozen=True)
class AllLeaveLearned(AllLeaveAt):
    """The same where the learned chance of being wrong is asked for at every exit, too."""

    reads_lte: ClassVar[bool] = True


@dataclass(frozen=True)
class Timed:
    """A model with the tokens of all test rows.

    Attributes:
        model: a stage, or a model with exits.
        rows: tokens.
    """

    model: Opened
    rows: TokenizedTexts

    def run(self, exit_number: int, positions: Ints) -> object:
        """Take rows to an exit, counted from 1."""
        if isinstance(self.model, Stage):
            return self.model.logits(self.rows, positions)
        rule = (AllLeaveLearned if self.model.rule.reads_lte else AllLeaveAt)(exit_number)
        return run_early_exit(self.model.model, self.rows, rule, positions=positions)

    @property
    def exits(self) -> int:
        """How many."""
        return 1 if isinstance(self.model, Stage) else self.model.model.depth


def time_cell(
    cell: Experiment, store: ResultStore, *, rows: int = TIMED_ROWS, repeats: int = REPEATS
) -> Timings:
    """Time every model of a cell on some of its test rows, and check what is fitted on all of them.

    Tokenising is left out, as it is the same for all. Batches are those of inference: rows of one padded
    length, within one budget of tokens; rows that stay fill whole batches again.

    Args:
        cell: with its models trained.
        store: where its arrays lie.
        rows: how many to fit seconds to, evenly spaced over the test rows.
        repeats: how often each run is timed, all in turn.
    """
    log.info("%s: timing", cell.plan.name)
    models = _open_all(cell)
    count = len(cell.rows.test)
    some = np.linspace(0, count - 1, min(count, rows)).astype(np.int64)
    order = some[np.argsort(models[LARGE].rows.lengths[some], kind="stable")]
    groups = [one for one in np.array_split(order, TIMED_GROUPS) if len(one)]
    names = [(name, k) for name, one in models.items() for k in range(1, one.exits + 1)]
    runs = [partial(models[name].run, k, group) for name, k in names for group in groups]
    taken = np.median(interleaved(runs, repeats=repeats), axis=1).reshape(len(names), len(groups))
    seconds: dict[str, tuple[LinearLatency, ...]] = {name: () for name in models}
    for (name, _), each in zip(names, taken, strict=True):
        fitted = fit_latency(models[name].rows.padded_lengths, groups, each)
        seconds[name] = (*seconds[name], fitted)
    where: dict[str, Any] = {
        "machine": machine(),
        "device": "cuda" if has_cuda() else "cpu",
        "threads": torch.get_num_threads(),
        "engine": "torch float32",
        "batch_tokens": BATCH_TOKENS,
        "versions": versions(),
        "commit": commit(),
        "rows": {part: len(getattr(cell.rows, part)) for part in ("train", "tune", "test")},
        "data_sha256": dict(zip(("train", "tune", "test"), cell.rows_key, strict=True)),
        "models": cell.sources.keys,
    }
    made = Timings(seconds, (), len(order), repeats, where)
    checks = _checks(cell, store, models, made, repeats)
    return Timings(seconds, checks, len(order), repeats, where)


def _open_all(cell: Experiment) -> dict[str, Timed]:
    """One trained model of each shape; small stages trained in the way that whole runs are checked with."""
    found: dict[str, Timed] = {}
    wanted = _checked_objective(cell)
    for product in model_specs(cell.protocol):
        if product.source in cell.protocol.small and product.objective != wanted:
            continue
        opened = cell.open_exits(product) if product.kind == "exits" else cell.open(product)
        found[product.timed_as] = Timed(opened, opened.tokenizer.encode(cell.rows.test.texts))
    return found


def _checks(
    cell: Experiment, store: ResultStore, models: dict[str, Timed], timings: Timings, repeats: int
) -> tuple[TimingCheck, ...]:
    """Whole methods on all test rows at the points picked on tune rows, by clock and by fitted seconds."""
    every = [one.method for one in model_specs(cell.protocol)]
    arrays = {m: StoredPredictions.load(store.arrays(cell.plan.name, cell.seed, m)) for m in every}
    trained = TaskResults(cell.plan.name, cell.seed, arrays, timings)
    tuned, n = trained.large.about.tune_rows, len(trained.large.labels)
    runs: list[Callable[[], object]] = [partial(models[LARGE].run, 1, np.arange(n - tuned))]
    said: list[tuple[str, Setting, float]] = []
    for ladder, members in _checked_ladders(cell, trained):
        curve = curves(ladder.take(np.arange(tuned)), cell.plan.metric)["time"]
        test = ladder.take(np.arange(tuned, n))
        for setting in dict.fromkeys(pick(curve, target).fast for target in cell.protocol.targets):
            modelled = float(test.alone["time"].mean() / test.mean_cost(setting, "time"))
            said.append((ladder.name, setting, modelled))
            runs.append(_whole_run(ladder, setting, [models[m] for m in members]))
    seconds = np.array(interleaved(runs, repeats=repeats))
    gains = seconds[0] / seconds[1:]
    return tuple(
        TimingCheck(name, setting, modelled, float(np.median(one)), float(one.min()), float(one.max()))
        for (name, setting, modelled), one in zip(said, gains, strict=True)
    )


def _checked_objective(cell: Experiment) -> Objective:
    """The paper's way of training, where it is among those that are run."""
    return "dar" if "dar" in cell.protocol.objectives else cell.protocol.objectives[0]


def _checked_ladders(cell: Experiment, trained: TaskResults) -> list[tuple[Method, list[str]]]:
    """Models cut short, the early exits, and a cascade of each list of stages."""
    protocol, wanted = cell.protocol, _checked_objective(cell)
    found = [(trained.cut_short(protocol), [*(truncated(k) for k in protocol.truncated), LARGE])]
    found += [(trained.early_exit(name), [model]) for name, (model, _) in RULES.items()]
    for small in protocol.stage_lists:
        ordered = sorted(small, key=lambda one: trained.arrays[stage(one, wanted)].flops().mean())
        found.append((trained.cascade(small, wanted), [*ordered, LARGE]))
    return found


def _whole_run(ladder: Method, setting: Setting, members: list[Timed]) -> Callable[[], object]:
    first = members[0]
    if isinstance(first.model, EarlyExitPredictor):
        rule = exit_rule(ladder.rule, setting)
        return partial(run_early_exit, first.model.model, first.rows, rule)
    if ladder.rule == "fixed":
        return partial(members[int(setting[0]) - 1].run, 1, np.arange(len(first.rows)))
    return partial(_run_stages, members, setting)


def _run_stages(members: list[Timed], thresholds: Setting) -> None:
    """The cascade's loop on tokens that are made already."""
    active = np.arange(len(members[0].rows))
    for one, threshold in zip(members, (*thresholds, None), strict=True):
        if not len(active):
            return
        assert isinstance(one.model, Stage)
        logits = one.model.logits(one.rows, active)
        active = active[~decide(logits, temperature=1.0, score=Score(), threshold=threshold).exits]
