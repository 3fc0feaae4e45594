"""Seconds of every model of a task: real runs in one engine, fitted per exit, checked on whole runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from cascadebert.baselines.exit_arrays import ExitArrays
from cascadebert.baselines.running import EarlyExit, run_early_exit
from cascadebert.batching import Rows
from cascadebert.confidence import max_probability, softmax
from cascadebert.costs import TIMED_GROUPS, fitted_seconds
from cascadebert.engines.torch import has_cuda
from cascadebert.environment import commit, machine, versions
from cascadebert.errors import extra
from cascadebert.reproduce.arrays import MethodArrays
from cascadebert.reproduce.evidence import RULES, Trained
from cascadebert.reproduce.points import Ladder, Setting, curves, exit_rule, pick
from cascadebert.reproduce.products import Store, products, stage, truncated
from cascadebert.reproduce.protocol import LARGE, Objective
from cascadebert.reproduce.timings import Check, Timings
from cascadebert.reproduce.training import Cell
from cascadebert.stage import BATCH_TOKENS, Stage
from cascadebert.thresholds import leaves
from cascadebert.timing import interleaved
from cascadebert.training.loop import log
from cascadebert.types import Bools, Ints, Seconds

with extra("train"):
    import torch

TIMED_ROWS, REPEATS = 512, 3
Opened = Stage | EarlyExit


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

    def leaves(self, said: ExitArrays, layer: int) -> Bools:
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
    rows: Rows

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


def time_cell(cell: Cell, store: Store, *, rows: int = TIMED_ROWS, repeats: int = REPEATS) -> Timings:
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
    seconds: dict[str, tuple[Seconds, ...]] = {name: () for name in models}
    for (name, _), each in zip(names, taken, strict=True):
        fitted = fitted_seconds(models[name].rows.padded_lengths, groups, each)
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


def _open_all(cell: Cell) -> dict[str, Timed]:
    """One trained model of each shape; small stages trained in the way that whole runs are checked with."""
    found: dict[str, Timed] = {}
    wanted = _checked_objective(cell)
    for product in products(cell.protocol):
        if product.source in cell.protocol.small and product.objective != wanted:
            continue
        opened = cell.open_exits(product) if product.kind == "exits" else cell.open(product)
        found[product.timed_as] = Timed(opened, opened.encoder.encode(cell.rows.test.texts))
    return found


def _checks(
    cell: Cell, store: Store, models: dict[str, Timed], timings: Timings, repeats: int
) -> tuple[Check, ...]:
    """Whole methods on all test rows at the points picked on tune rows, by clock and by fitted seconds."""
    every = [one.method for one in products(cell.protocol)]
    arrays = {m: MethodArrays.load(store.arrays(cell.plan.name, cell.seed, m)) for m in every}
    trained = Trained(cell.plan.name, cell.seed, arrays, timings)
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
        Check(name, setting, modelled, float(np.median(one)), float(one.min()), float(one.max()))
        for (name, setting, modelled), one in zip(said, gains, strict=True)
    )


def _checked_objective(cell: Cell) -> Objective:
    """The paper's way of training, where it is among those that are run."""
    return "dar" if "dar" in cell.protocol.objectives else cell.protocol.objectives[0]


def _checked_ladders(cell: Cell, trained: Trained) -> list[tuple[Ladder, list[str]]]:
    """Models cut short, the early exits, and a cascade of each list of stages."""
    protocol, wanted = cell.protocol, _checked_objective(cell)
    found = [(trained.cut_short(protocol), [*(truncated(k) for k in protocol.truncated), LARGE])]
    found += [(trained.early_exit(name), [model]) for name, (model, _) in RULES.items()]
    for small in protocol.stage_lists:
        ordered = sorted(small, key=lambda one: trained.arrays[stage(one, wanted)].flops().mean())
        found.append((trained.cascade(small, wanted), [*ordered, LARGE]))
    return found


def _whole_run(ladder: Ladder, setting: Setting, members: list[Timed]) -> Callable[[], object]:
    first = members[0]
    if isinstance(first.model, EarlyExit):
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
        sure = max_probability(softmax(one.model.logits(one.rows, active)))
        active = active[~leaves(sure, threshold)]
