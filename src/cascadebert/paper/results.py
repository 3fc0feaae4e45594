"""Result files of an experiment, and the methods that their outputs and timings make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np

from cascadebert.paper.model_specs import model_specs, small_name, truncated_name
from cascadebert.paper.operating_points import Method, RuleName
from cascadebert.paper.protocol import BASES, LARGE, Basis, ExperimentProtocol, ObjectiveName
from cascadebert.paper.stored_predictions import StoredPredictions, stack_stages
from cascadebert.paper.timings import Timings
from cascadebert.types import Floats

RULES: dict[str, tuple[str, RuleName]] = {
    "deebert": ("deebert", "entropy"),
    "pabee": ("pabee", "patience"),
    "berxit": ("berxit", "learned"),
    "berxit-entropy": ("berxit", "entropy"),
}
"""Early-exit methods: the multi-exit model and its exit rule; BERxiT has two."""
TRUNCATED = "truncated"


@dataclass(frozen=True)
class TaskResults:
    """Outputs of all models of one task and seed."""

    models: dict[str, StoredPredictions]  # by name
    timings: Timings

    @property
    def large(self) -> StoredPredictions:
        """Outputs of the large model."""
        return self.models[LARGE]

    def costs(self, model: str) -> dict[Basis, Floats]:
        """(m, n) cost of each text in a model, by the exit that it takes."""
        stored = self.models[model]
        return {"flops": stored.flops(), "time": self.timings.cost_of(stored.about.timed_as, stored.lengths)}

    def methods(self, protocol: ExperimentProtocol) -> list[Method]:
        """Every method that is compared, on the tuning and the test set."""
        early_exits = [self.early_exit(name) for name in RULES]
        cascades = [self.cascade(*pair) for pair in product(protocol.stage_lists, protocol.objectives)]
        large = self._method(LARGE, "fixed", [LARGE], self.costs(LARGE))
        return [self.truncated(protocol), *early_exits, *cascades, large]

    def truncated(self, protocol: ExperimentProtocol) -> Method:
        """The truncated models by depth, and the large one."""
        names = [*(truncated_name(layers) for layers in protocol.truncated), LARGE]
        costs = {basis: np.stack([self.costs(name)[basis][0] for name in names]) for basis in BASES}
        return self._method(TRUNCATED, "fixed", names, costs)

    def early_exit(self, name: str) -> Method:
        """An early-exit method."""
        model, rule = RULES[name]
        return self._method(name, rule, [model], self.costs(model))

    def cascade(self, small: Sequence[str], objective: ObjectiveName) -> Method:
        """A cascade of small models, all trained with one objective, and the large one."""
        names = [small_name(encoder, objective) for encoder in small]
        names = [*sorted(names, key=lambda name: self.models[name].flops().mean()), LARGE]
        costs = {basis: np.cumsum([self.costs(name)[basis][0] for name in names], axis=0) for basis in BASES}
        return self._method(cascade_name(small, objective), "cascade", names, costs)

    def _method(self, name: str, rule: RuleName, models: Sequence[str], costs: dict[Basis, Floats]) -> Method:
        outputs = stack_stages([self.models[model] for model in models])
        corrected: dict[Basis, Floats] = {**costs, "time": costs["time"] * self.timings.correction(name)}
        large_costs = {basis: table[0] for basis, table in self.costs(LARGE).items()}
        return Method(name, rule, outputs, corrected, large_costs, tuple(models))


def cascade_name(small: Sequence[str], objective: ObjectiveName) -> str:
    """Name of a cascade, such as "cascade-1x384-dar"."""
    return "-".join(["cascade", *small, objective])


def cascade_names(protocol: ExperimentProtocol) -> list[str]:
    """Names of all cascades of an experiment; those of the first small stage come first."""
    return [cascade_name(*pair) for pair in product(protocol.stage_lists, protocol.objectives)]


@dataclass(frozen=True)
class ResultStore:
    """Paths of the result files of an experiment, and the results read from them."""

    protocol: ExperimentProtocol
    output: Path
    _results: dict[tuple[str, int], TaskResults] = field(default_factory=dict, init=False, repr=False)

    def arrays_path(self, task: str, seed: int, method: str) -> Path:
        """File of the outputs of one model."""
        return self.output / "arrays" / self.protocol.name / f"{task}-{seed}-{method}.npz"

    def timings_path(self, task: str) -> Path:
        """File of the timings of a task."""
        return self.output / "timings" / self.protocol.name / f"{task}.json"

    def create_folders(self) -> None:
        """Create the folders of all result files that are missing."""
        for kind in ("arrays", "timings"):
            (self.output / kind / self.protocol.name).mkdir(parents=True, exist_ok=True)

    def missing(self) -> list[Path]:
        """Files that a complete experiment has and this one has not."""
        paths = [self.timings_path(task.name) for task in self.protocol.tasks]
        for task, seed, spec in product(self.protocol.tasks, self.protocol.seeds, model_specs(self.protocol)):
            paths.append(self.arrays_path(task.name, seed, spec.method))
        return [path for path in paths if not path.is_file()]

    def timings(self, task: str) -> Timings:
        """The timings of a task."""
        return Timings.load(self.timings_path(task))

    def models(self, task: str, seed: int) -> dict[str, StoredPredictions]:
        """The outputs of all models of a task and seed, by name."""
        names = [spec.method for spec in model_specs(self.protocol)]
        return {name: StoredPredictions.load(self.arrays_path(task, seed, name)) for name in names}

    def results(self, task: str, seed: int) -> TaskResults:
        """The results of a task and seed, read once."""
        if (task, seed) not in self._results:
            self._results[task, seed] = TaskResults(self.models(task, seed), self.timings(task))
        return self._results[task, seed]

    def seed_results(self, task: str) -> list[TaskResults]:
        """The results of a task, one per seed."""
        return [self.results(task, seed) for seed in self.protocol.seeds]
