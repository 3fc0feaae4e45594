"""Result files of an experiment, and the methods that their outputs and timings make up."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter

from cascadebert.atomic import atomic_file, write_text_atomically
from cascadebert.errors import DataError
from cascadebert.paper.early_exit.exits import ExitOutputs
from cascadebert.paper.operating_points import Method, RuleName
from cascadebert.paper.protocol import (
    BASES,
    LARGE,
    OBJECTIVES,
    Baselines,
    Basis,
    EarlyExitName,
    ExperimentProtocol,
    ObjectiveName,
    small_name,
)
from cascadebert.types import Floats, Flops, Ints, LinearLatency

RULES: dict[EarlyExitName, tuple[RuleName, ...]] = {
    "deebert": ("entropy",),
    "pabee": ("patience",),
    "berxit": ("learned", "entropy"),
    "sweet": ("confidence",),
    "deebert-distil": ("entropy",),
}
"""Exit rules by multi-exit model; the first is the published one."""
TRUNCATED, STUDENT = "truncated", "student"
MAX_LOG_ODDS = 36.0  # float64 can still tell the probability from 1


@dataclass(frozen=True)
class ModelInfo:
    """Origin of stored outputs; the field names are those of `about` in the files."""

    task: str
    seed: int
    method: str  # name of the model, such as "deebert" or "1x384-dar"
    recipe: str  # fingerprint of all that decides the outputs
    tune_rows: int  # the first so many texts are the tuning set, the others the test set
    flops: tuple[Flops, ...]  # per exit, operations of a text that exits there; a stage has one exit
    layers: int
    hidden: int
    timed_as: str  # name in the timings of the task, shared by models of one shape
    notes: str = ""
    exit_layers: tuple[int, ...] = ()  # layers with exits, where not all have one

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class StoredPredictions:
    """Outputs of one trained model on the tuning set followed by the test set of a task."""

    outputs: ExitOutputs  # (m exits, n texts), with labels
    lengths: Ints  # (n,) padded tokens
    about: ModelInfo

    @property
    def test(self) -> ExitOutputs:
        """Outputs on the test set."""
        return self.outputs.take(np.arange(self.about.tune_rows, len(self.outputs)))

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """(m,) layers after which the exits are; that of a stage is its last."""
        if self.outputs.num_exits == 1:
            return (self.about.layers,)
        return self.about.exit_layers or tuple(range(1, self.outputs.num_exits + 1))

    def flops(self) -> Floats:
        """(m, n) operations of each text, by the exit that it takes."""
        return np.stack([flops.cost_of(self.lengths) for flops in self.about.flops])

    def save(self, path: Path) -> None:
        """Write an npz of 16-bit integers, float16 and one text; equal arrays give equal bytes.

        Confidences are stored as log odds: in float16 all above 0.9998 would be 1 and tie, which distorts
        inversion scores and high thresholds.
        """
        arrays = {
            "answers": self.outputs.predictions.astype(np.int16),
            "log_odds": log_odds(self.outputs.confidences).astype(np.float16),
            "entropies": self.outputs.entropies.astype(np.float16),
            "labels": self.outputs.labels.astype(np.int16),
            "lengths": self.lengths.astype(np.int16),
            "about": np.array(json.dumps(asdict(self.about), sort_keys=True)),
        }
        if self.outputs.lte is not None:
            arrays["lte"] = self.outputs.lte.astype(np.float16)
        with atomic_file(path) as temporary:
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> StoredPredictions:
        """Read a saved file. Raises DataError if it is none, or its arrays do not belong together."""
        try:
            with np.load(path, allow_pickle=False) as file:
                stored = {name: file[name] for name in file.files}
            about = TypeAdapter(ModelInfo).validate_json(str(stored.pop("about")))
            predictions, labels, lengths = (
                stored.pop(name).astype(np.int64) for name in ("answers", "labels", "lengths")
            )
            floats = {name: array.astype(np.float64) for name, array in stored.items()}
            confidences = 1 / (1 + np.exp(-floats["log_odds"]))
            outputs = ExitOutputs(predictions, confidences, floats["entropies"], floats.get("lte"), labels)
            loaded = cls(outputs, lengths, about)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not readable as arrays of a model ({error})") from error
        shapes = {array.shape for array in (predictions, *floats.values())}
        if shapes != {(len(about.flops), len(labels))} or lengths.shape != labels.shape:
            raise DataError(f"{path}: its arrays are not of one shape")
        return loaded


def log_odds(confidences: Floats) -> Floats:
    """log(p / (1 - p)), clipped to plus and minus 36.

    >>> log_odds(np.array([0.5, 1.0])).tolist()
    [0.0, 36.0]
    """
    with np.errstate(divide="ignore"):
        odds = np.log(confidences) - np.log1p(-confidences)
    return np.asarray(np.clip(odds, -MAX_LOG_ODDS, MAX_LOG_ODDS))


def stack_stages(stages: Sequence[StoredPredictions]) -> ExitOutputs:
    """Outputs of stages as those of exits, in the same order. Raises DataError if their texts differ."""
    first = stages[0]
    for stage in stages[1:]:
        same_texts = np.array_equal(stage.outputs.labels, first.outputs.labels)
        if not same_texts or stage.about.tune_rows != first.about.tune_rows:
            raise DataError(f"{stage.about.method} and {first.about.method} were not run on the same rows")
    return first.outputs.append(*(stage.outputs for stage in stages[1:]))


@dataclass(frozen=True)
class TimingCheck:
    """Wall-clock speed-up of one method at one setting, run on the whole test set."""

    method: str
    setting: tuple[float, ...]
    modelled: float  # speed-up by the fitted seconds on the same texts
    measured: float  # median over repeats; the large model is timed in turn with the method
    low: float  # minimum over repeats
    high: float  # maximum over repeats

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Timings:
    """Seconds of a text in one task on one machine, without tokenization."""

    seconds: dict[str, tuple[LinearLatency, ...]]  # by `ModelSpec.timed_as`; of a text that takes each exit
    checks: tuple[TimingCheck, ...]
    rows: int  # test texts that the seconds were fitted to
    repeats: int
    where: dict[str, Any]  # machine, engine, versions, data and models

    __pydantic_config__ = ConfigDict(extra="forbid")

    def cost_of(self, name: str, lengths: Ints) -> Floats:
        """(m, n) seconds of texts of (n,) padded lengths, by exit. Raises DataError if none are stored."""
        if name not in self.seconds:
            raise DataError(f"no seconds of {name}; there are those of {', '.join(self.seconds)}")
        return np.stack([latency.cost_of(lengths) for latency in self.seconds[name]])

    def correction(self, method: str) -> float:
        """Factor of the seconds of a complete method: the median of modelled over measured speed-up.

        Part-filled batches and the work between exits or stages are not in the seconds of any model. Methods
        of one `timing_key` share a factor; one without a check has 1.
        """
        checks = [check for check in self.checks if timing_key(check.method) == timing_key(method)]
        return float(np.median([check.modelled / check.measured for check in checks])) if checks else 1.0

    def save(self, path: Path) -> None:
        """Write JSON atomically."""
        write_text_atomically(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Timings:
        """Read a saved file. Raises DataError if it cannot be read."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not readable as timings ({error})") from error


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

    def split(self, method: Method) -> tuple[Method, Method]:
        """A method on the tuning set and on the test set."""
        tune_rows = self.large.about.tune_rows
        return method.take(slice(tune_rows)), method.take(slice(tune_rows, None))

    def methods(self, protocol: ExperimentProtocol, objectives: Sequence[ObjectiveName]) -> list[Method]:
        """The truncated models, early exits, cascades of small models with these objectives, large model.

        Where there are students, they and each small model alone are the points of reference.
        """
        methods = [self._fixed(TRUNCATED, [f"truncated-{layers}" for layers in protocol.truncated])]
        if protocol.students:
            methods.append(self._fixed(STUDENT, [f"student-{layers}" for layers in protocol.students]))
            names = [small_name(*pair) for pair in product(protocol.small, objectives)]
            methods += [self._method(name, "fixed", [name], self.costs(name)) for name in names]
        methods += [
            self._method(name, rule, [model], self.costs(model))
            for name, (model, rule) in early_exits(protocol).items()
        ]
        methods += [self.cascade(*pair) for pair in product(protocol.stage_lists, objectives)]
        return [*methods, self._method(LARGE, "fixed", [LARGE], self.costs(LARGE))]

    def cascade(self, small: Sequence[str], objective: ObjectiveName) -> Method:
        """A cascade of small models, all trained with one objective, and the large one."""
        names = [small_name(encoder, objective) for encoder in small]
        names = [*sorted(names, key=lambda name: self.models[name].flops().mean()), LARGE]
        costs = {basis: np.cumsum([self.costs(name)[basis][0] for name in names], axis=0) for basis in BASES}
        return self._method(cascade_name(small, objective), "cascade", names, costs)

    def _fixed(self, name: str, models: Sequence[str]) -> Method:
        names = [*models, LARGE]
        costs = {basis: np.stack([self.costs(one)[basis][0] for one in names]) for basis in BASES}
        return self._method(name, "fixed", names, costs)

    def _method(self, name: str, rule: RuleName, models: Sequence[str], costs: dict[Basis, Floats]) -> Method:
        outputs = stack_stages([self.models[model] for model in models])
        corrected: dict[Basis, Floats] = {**costs, "time": costs["time"] * self.timings.correction(name)}
        large_costs = {basis: table[0] for basis, table in self.costs(LARGE).items()}
        return Method(name, rule, outputs, corrected, large_costs, tuple(models))


def early_exits(
    protocol: ExperimentProtocol, baselines: Baselines = "strengthened"
) -> dict[str, tuple[str, RuleName]]:
    """The multi-exit model and the exit rule of every early exit by name, such as "berxit-entropy"."""
    found = {}
    for name, spec in protocol.multi_exit_models.items():
        if baselines == "published" and (spec.reads != "first" or spec.exits == "deebert-distil"):
            continue
        for rule in RULES[spec.exits]:
            found[name if rule == RULES[spec.exits][0] else f"{name}-{rule}"] = (name, rule)
    return found


def timing_key(method: str) -> str:
    """The part of a method's name that it shares with those that take the same time.

    They differ in the objective that they were trained with, or in what their exits read.

    >>> timing_key("cascade-1x384-dar"), timing_key("pabee-mean"), timing_key("deebert-distil")
    ('cascade-1x384', 'pabee', 'deebert')
    """
    name, _, objective = method.replace("-mean", "").rpartition("-")
    return name if objective in OBJECTIVES else method.replace("-mean", "")


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

    def missing(self) -> list[Path]:
        """Files that a complete experiment has and this one has not."""
        paths = [self.timings_path(task.name) for task in self.protocol.tasks]
        for task, seed in product(self.protocol.tasks, self.protocol.seeds):
            paths += [self.arrays_path(task.name, seed, name) for name in self.protocol.models()]
        return [path for path in paths if not path.is_file()]

    def models(self, task: str, seed: int) -> dict[str, StoredPredictions]:
        """The outputs of all models of a task and seed, by name."""
        paths = {name: self.arrays_path(task, seed, name) for name in self.protocol.models()}
        return {name: StoredPredictions.load(path) for name, path in paths.items()}

    def results(self, task: str, seed: int) -> TaskResults:
        """The results of a task and seed, read once."""
        if (task, seed) not in self._results:
            timings = Timings.load(self.timings_path(task))
            self._results[task, seed] = TaskResults(self.models(task, seed), timings)
        return self._results[task, seed]

    def seed_results(self, task: str) -> list[TaskResults]:
        """The results of a task, one per seed."""
        return [self.results(task, seed) for seed in self.protocol.seeds]
