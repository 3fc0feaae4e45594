"""All arrays and timings of an experiment, and the methods made of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cascadebert.errors import DataError
from cascadebert.paper.model_specs import ResultStore, model_specs, stage, truncated
from cascadebert.paper.operating_points import Method, RuleName, cumulated
from cascadebert.paper.protocol import BASES, LARGE, Basis, ExperimentProtocol, Objective
from cascadebert.paper.stored_predictions import StoredPredictions, stacked
from cascadebert.paper.timings import Timings
from cascadebert.types import Floats

RULES: dict[str, tuple[str, RuleName]] = {
    "deebert": ("deebert", "entropy"),
    "pabee": ("pabee", "patience"),
    "berxit": ("berxit", "learned"),
    "berxit-entropy": ("berxit", "entropy"),
}
"""Methods of early exit: the model with exits, and what decides; BERxiT has both rules."""
TRUNCATED = "truncated"


@dataclass(frozen=True)
class TaskResults:
    """The arrays of one task and seed.

    Attributes:
        task: its name.
        seed: of the training.
        arrays: by name of the model.
        timings: of the task.
    """

    task: str
    seed: int
    arrays: dict[str, StoredPredictions]
    timings: Timings

    @property
    def large(self) -> StoredPredictions:
        """The large model."""
        return self.arrays[LARGE]

    @property
    def alone(self) -> dict[Basis, Floats]:
        """Per basis, (n,) what rows cost at the large model alone."""
        return {basis: one[0] for basis, one in self.costs(LARGE).items()}

    def costs(self, method: str) -> dict[Basis, Floats]:
        """Per basis, (m, n) what rows cost in a model, by the exit that they leave at."""
        one = self.arrays[method]
        return {"flops": one.flops(), "time": self.timings.of(one.about.timed_as, one.lengths)}

    def ladders(self, protocol: ExperimentProtocol) -> Iterator[Method]:
        """Every method that is compared, on tune and test rows."""
        yield self.cut_short(protocol)
        for name in RULES:
            yield self.early_exit(name)
        for stages in protocol.stage_lists:
            for objective in protocol.objectives:
                yield self.cascade(stages, objective)

    def cut_short(self, protocol: ExperimentProtocol) -> Method:
        """Models cut short, by depth, and the large one."""
        return self._ladder(TRUNCATED, "fixed", [*(truncated(k) for k in protocol.truncated), LARGE])

    def early_exit(self, name: str) -> Method:
        """A method of early exit."""
        model, rule = RULES[name]
        costs = self._corrected(name, self.costs(model))
        return Method(name, rule, self.arrays[model].said, costs, self.alone)

    def cascade(self, small: Sequence[str], objective: Objective) -> Method:
        """Complete models in the order of their cost, all trained in one way."""
        ordered = sorted(small, key=lambda one: self.arrays[stage(one, objective)].flops().mean())
        members = [*(stage(one, objective) for one in ordered), LARGE]
        return self._ladder(cascade_name(small, objective), "cascade", members)

    def _ladder(self, name: str, rule: RuleName, members: Sequence[str]) -> Method:
        """Models of one exit each; in a cascade a row pays those before, too."""
        costs: dict[Basis, Floats] = {}
        for basis in BASES:
            parts = [self.costs(one)[basis][0] for one in members]
            costs[basis] = cumulated(parts) if rule == "cascade" else np.stack(parts)
        said = stacked([self.arrays[one] for one in members])
        return Method(name, rule, said, self._corrected(name, costs), self.alone)

    def _corrected(self, name: str, costs: dict[Basis, Floats]) -> dict[Basis, Floats]:
        """With the seconds of whole methods as the clock has them."""
        return {**costs, "time": costs["time"] * self.timings.correction(name)}


def cascade_name(small: Sequence[str], objective: Objective) -> str:
    """Name of a cascade, such as "cascade-1x384-dar"."""
    return "-".join(["cascade", *small, objective])


def cascade_names(protocol: ExperimentProtocol) -> list[str]:
    """All cascades of an experiment, those of the first small stage first."""
    return [cascade_name(small, one) for small in protocol.stage_lists for one in protocol.objectives]


@dataclass(frozen=True)
class ExperimentResults:
    """An experiment's arrays.

    Attributes:
        protocol: of the experiment.
        store: where they lie.
    """

    protocol: ExperimentProtocol
    store: ResultStore

    def missing(self) -> list[Path]:
        """Files that a complete experiment has."""
        wanted = [self.store.timings(plan.name) for plan in self.protocol.tasks]
        wanted += [
            self.store.arrays(plan.name, seed, one.method)
            for plan in self.protocol.tasks
            for seed in self.protocol.seeds
            for one in model_specs(self.protocol)
        ]
        return [path for path in wanted if not path.is_file()]

    def refuse_missing(self) -> None:
        """Refuse an experiment that is not complete: nothing is left out after looking.

        Raises:
            DataError: naming how much is missing, and the first of it.
        """
        missing = self.missing()
        if missing:
            raise DataError(
                f"{len(missing)} files of the experiment are missing, such as {missing[0]}. Run `cascadebert "
                "reproduce` to its end; it goes on where it was."
            )

    @cached_property
    def _read(self) -> dict[tuple[str, int], TaskResults]:
        return {}

    def trained(self, task: str, seed: int) -> TaskResults:
        """The arrays of one task and seed, read once."""
        if (task, seed) not in self._read:
            arrays = {
                one.method: StoredPredictions.load(self.store.arrays(task, seed, one.method))
                for one in model_specs(self.protocol)
            }
            self._read[task, seed] = TaskResults(task, seed, arrays, self.timings(task))
        return self._read[task, seed]

    def timings(self, task: str) -> Timings:
        """Seconds of a task."""
        return Timings.load(self.store.timings(task))
