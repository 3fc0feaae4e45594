"""Configuration of the paper's experiment; presets are values, and there is one code path for all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from cascadebert.errors import CascadeError, DataError
from cascadebert.paper.early_exit.exits import Reads

MetricName = Literal["accuracy", "accuracy_and_f1", "matthews"]
"""Of two labels but for accuracy: the mean of accuracy and F1 of label 1, and Matthews' correlation."""
Basis = Literal["flops", "time"]
ObjectiveName = Literal["plain", "dar", "distil", "both", "gatekeeper"]

BASES: tuple[Basis, ...] = ("flops", "time")
BASELINES: tuple[Baselines, ...] = ("published", "strengthened")
OBJECTIVES: tuple[ObjectiveName, ...] = ("plain", "dar", "distil", "both", "gatekeeper")
EarlyExitName = Literal["deebert", "pabee", "berxit", "sweet", "deebert-distil"]
Baselines = Literal["published", "strengthened"]
"""Early exits as published, which read the first token, or all of them."""
LARGE = "large"


@dataclass(frozen=True)
class TaskConfig:
    """Data and training options of one task; the field names are those of protocol.json."""

    name: str  # also of its folder in a local data folder
    metric: MetricName = "accuracy"
    source: str | None = None  # data set on the Hub, used without a local data folder
    test_split: str = "validation"  # only reported on; the other sets are carved from "train"
    rows: int | None = None  # maximum number of training examples
    tune_rows: int = 1000  # taken from the train split to select thresholds on; at most a fifth of it
    # examples are parts of one another (SST-2): they are held out with all their parts, only full sentences
    # are tuned on, and sentences come first where `rows` does not allow all
    phrases: bool = False
    both_ends: bool = False  # long texts keep their first and last tokens, not the first only
    epochs: float | None = 3.0  # of every model, and of each of DeeBERT's two stages; None: as published
    batch_size: int = 32
    learning_rate: float = 2e-4  # of the large, the multi-exit and the truncated models
    small_learning_rate: float = 3e-4
    exit_learning_rate: float = 2e-3  # of DeeBERT's second stage

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class ModelSpec:
    """One model of a task and seed."""

    method: str  # its name, such as "truncated-2" or "1x384-dar"
    kind: Literal["large", "truncated", "student", "exits", "small"]
    source: str  # name of the pretrained encoder
    objective: ObjectiveName = "plain"  # of a small model
    layers: int = 0  # of a truncated model or a student
    exits: EarlyExitName = "deebert"  # method of a multi-exit model
    reads: Reads = "first"  # input of its exits

    @property
    def timed_as(self) -> str:
        """Name in the timings: neither the objective of a model nor what its exits read changes them."""
        if self.kind == "exits":
            return "deebert" if self.exits == "deebert-distil" else self.exits
        return self.source if self.kind == "small" else self.method


def small_name(encoder: str, objective: ObjectiveName) -> str:
    """Name of a small model trained with an objective, such as "1x384-dar"."""
    return f"{encoder}-{objective}"


@dataclass(frozen=True)
class ExperimentProtocol:
    """Configuration of the experiment; the field names are those of protocol.json."""

    name: str  # of the set of arrays; sets of different names are never mixed
    tasks: tuple[TaskConfig, ...]
    large: str = ""  # name of the encoder of the large model and all multi-exit models
    small: tuple[str, ...] = ()  # names of complete small encoders; the first is the paper's small stage
    complete: tuple[str, ...] = ()  # further complete encoders, for the analysis of shallow layers
    seeds: tuple[int, ...] = (1, 2, 3)  # everything is trained once per seed
    targets: tuple[float, ...] = (2.0, 3.0, 4.0)  # speed-ups to compare at
    objectives: tuple[ObjectiveName, ...] = OBJECTIVES  # of each small model
    truncated: tuple[int, ...] = (1, 2, 3)  # depths of the truncated models
    students: tuple[int, ...] = ()  # depths of the students of the fine-tuned large model
    early_exits: tuple[EarlyExitName, ...] = ("deebert", "pabee", "berxit")  # multi-exit models
    tokens: int = 64  # maximum length
    warmup: float = 0.05  # fraction of the steps in which the learning rate rises
    exit_epochs: float = 3.0  # of DeeBERT's second stage, where a task has none of its own
    exits_read: tuple[Reads, ...] = ("first",)  # inputs of exits, each for a multi-exit model of its own
    dar_weight: float = 0.5  # lambda of the difficulty-aware term
    dar_margin: float = 0.5  # its epsilon
    difficulty_folds: int = 3  # of the cross-validation that labels difficulty, once per task
    difficulty_seeds: int = 3  # its repeats
    distill_weight: float = 1.0
    distill_temperature: float = 2.0
    gatekeeper_alpha: float = 0.5  # weight of the cross-entropy in Gatekeeper's loss
    gatekeeper_epochs: float = 2.0  # with that loss, after the plain training
    split_seed: int = 0  # decides which examples are trained and tuned on, for all training seeds
    bf16: bool | None = None  # matrix products of training in bfloat16; None: where the hardware supports it

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if "plain" not in self.objectives:
            raise CascadeError("the objective 'plain' is required: the others are compared with it")
        if not self.tasks or not self.seeds or not all(target > 1 for target in self.targets):
            raise CascadeError("an experiment needs tasks, seeds, and targets above 1")

    @property
    def main_objective(self) -> ObjectiveName:
        """That of the paper, if it is part of the experiment."""
        return "dar" if "dar" in self.objectives else "plain"

    @property
    def stage_lists(self) -> tuple[tuple[str, ...], ...]:
        """The small stages of each cascade: each small model by itself, then all of them."""
        single = tuple((name,) for name in self.small)
        return single if len(self.small) < 2 else (*single, self.small)

    def with_models(
        self, large: str | None, small: tuple[str, ...], complete: tuple[str, ...] = ()
    ) -> ExperimentProtocol:
        """The protocol with other encoders, by folder or repository; those not given stay.

        Raises CascadeError if the large or the small ones are neither given nor part of the preset, or two
        models have one name.
        """
        changed = replace(
            self,
            large=Path(large).name if large else self.large,
            small=tuple(Path(path).name for path in small) or self.small,
            complete=tuple(Path(path).name for path in complete) or self.complete,
        )
        if not changed.large or not changed.small:
            raise CascadeError(f"preset {self.name} names no encoders. Give --large DIR and --small DIR.")
        names = (*changed.small, *changed.complete)
        if len(set(names)) < len(names):
            raise CascadeError(f"models need names of their own; given: {', '.join(names)}")
        return changed

    def task(self, name: str) -> TaskConfig:
        """The task of a name. Raises CascadeError if there is none."""
        tasks = {task.name: task for task in self.tasks}
        if name not in tasks:
            raise CascadeError(f"no task {name!r}; the preset has {', '.join(tasks)}")
        return tasks[name]

    def models(self) -> dict[str, ModelSpec]:
        """All models by name; those that others start or learn from come first."""
        specs = [ModelSpec(LARGE, "large", self.large)]
        specs += [ModelSpec(f"truncated-{k}", "truncated", self.large, layers=k) for k in self.truncated]
        specs += [ModelSpec(f"student-{k}", "student", self.large, layers=k) for k in self.students]
        specs += [
            ModelSpec(self.exits_name(exits, reads), "exits", self.large, exits=exits, reads=reads)
            for exits, reads in product(self.early_exits, self.exits_read)
        ]
        small = [*product(self.small, self.objectives), *product(self.complete, OBJECTIVES[:1])]  # plain
        specs += [ModelSpec(small_name(*pair), "small", *pair) for pair in small]
        return {spec.method: spec for spec in specs}

    def exits_name(self, exits: EarlyExitName, reads: Reads) -> str:
        """Name of a multi-exit model, such as "pabee", or "pabee-mean" where it is not the only reading."""
        return exits if reads == self.exits_read[0] else f"{exits}-{reads}"

    @property
    def multi_exit_models(self) -> dict[str, ModelSpec]:
        """The multi-exit models by name."""
        return {name: spec for name, spec in self.models().items() if spec.kind == "exits"}

    @classmethod
    def load(cls, path: Path) -> ExperimentProtocol:
        """Read protocol.json. Raises DataError if it is not readable."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{path.parent}: no readable protocol.json of an experiment ({error})") from error


_MPNET_RATES: dict[str, Any] = {
    "learning_rate": 5e-5,
    "small_learning_rate": 2e-4,
    "exit_learning_rate": 1e-3,
}

_MINILM = ExperimentProtocol(
    "minilm",
    (
        TaskConfig("sst2", rows=2500, phrases=True),
        TaskConfig("mrpc", "accuracy_and_f1", rows=2500),
        TaskConfig("rte", rows=2500),
        TaskConfig("cola", "matthews", rows=2500),
        TaskConfig("agnews", rows=2500),
        # 150 labels: fewer rows would leave a dozen of each
        TaskConfig("clinc150", rows=4000, epochs=6.0, learning_rate=5e-4, small_learning_rate=1.5e-3),
        TaskConfig("imdb", rows=2500, both_ends=True),
    ),
    exits_read=("mean",),  # MiniLM's first token hardly differs between texts before layer 4
)


_MPNET = ExperimentProtocol(
    "mpnet",
    (
        TaskConfig("sst2", rows=2000, phrases=True, epochs=2.0, **_MPNET_RATES),
        TaskConfig("mrpc", "accuracy_and_f1", **_MPNET_RATES),
        TaskConfig("rte", **_MPNET_RATES),
        TaskConfig("cola", "matthews", rows=2000, **_MPNET_RATES),
        TaskConfig("agnews", rows=2000, epochs=2.0, **_MPNET_RATES),
        TaskConfig("clinc150", rows=3000, epochs=5.0, learning_rate=1.5e-4, small_learning_rate=1e-3),
    ),
    seeds=(1, 2),  # three would not fit in a night of two cores
    truncated=(3, 6),
    students=(3, 4, 6),
    early_exits=("deebert", "pabee", "berxit", "sweet", "deebert-distil"),
    exits_read=("first", "mean"),
    difficulty_seeds=2,
)


def _glue(name: str, metric: MetricName = "accuracy", **options: Any) -> TaskConfig:
    options |= {"learning_rate": 2e-5, "small_learning_rate": 2e-5, "exit_learning_rate": 2e-5}
    return TaskConfig(name, metric, source=f"nyu-mll/glue:{name}", epochs=None, **options)


_PAPER = ExperimentProtocol(
    "paper",
    (
        _glue("mrpc", "accuracy_and_f1", batch_size=16),
        _glue("sst2", phrases=True),
        _glue("rte"),
        _glue("qnli"),
        _glue("qqp", "accuracy_and_f1"),
        _glue("mnli", test_split="validation_matched"),
    ),
    large="bert-base-uncased",
    small=("bert_uncased_L-2_H-768_A-12",),
    seeds=(1234, 1235, 1236),
    truncated=(2, 3, 4, 6),
    tokens=128,
    warmup=0.0,
    difficulty_seeds=5,
)

PRESETS: dict[str, ExperimentProtocol] = {
    "minilm": _MINILM,
    "minilm-full": replace(
        _MINILM, name="minilm-full", tasks=tuple(replace(task, rows=None) for task in _MINILM.tasks)
    ),
    "mpnet": _MPNET,
    "paper": _PAPER,
}
HUB: dict[str, str] = {
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "bert_uncased_L-2_H-768_A-12": "google/bert_uncased_L-2_H-768_A-12",
}
"""Hub repositories of the presets' own encoders."""
