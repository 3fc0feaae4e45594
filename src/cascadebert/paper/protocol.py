"""What is compared, on what, with which budget: presets are values, and there is one code path for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cascadebert.errors import CascadeError
from cascadebert.paper.early_exit.exit_outputs import Reads

MetricName = Literal["accuracy", "accuracy_and_f1", "matthews"]
Basis = Literal["flops", "time"]
Objective = Literal["plain", "dar", "distil", "both", "gatekeeper"]

BASES: tuple[Basis, ...] = ("flops", "time")
OBJECTIVES: tuple[Objective, ...] = ("plain", "dar", "distil", "both", "gatekeeper")
EARLY_EXITS = ("deebert", "pabee", "berxit")
"""Models with exits."""
LARGE = "large"


@dataclass(frozen=True)
class TaskConfig:
    """How one data set is read and trained on.

    Attributes:
        name: of the task, and of its folder in a local data folder.
        metric: "accuracy"; "accuracy_and_f1", their mean, F1 of label 1; or "matthews", the correlation.
        source: data set on the Hub, used where no local data folder is given.
        test_split: rows that are only reported on; the others are carved from "train".
        rows: most rows to train on; None for all.
        tune_rows: rows taken from the train set to pick thresholds on; at most a fifth of it.
        phrases: whether rows are parts of one another (SST-2): held out with all their parts, and whole
            sentences alone are tuned on; they come first where `rows` does not allow all.
        both_ends: whether texts are cut to their first and last tokens, not to the first alone.
        epochs: passes of every model over the rows, of each of DeeBERT's two stages, too; None: as published.
        batch_size: rows per step.
        learning_rate: of the large model, the models with exits and those cut short.
        small_learning_rate: of the complete small models.
        exit_learning_rate: of DeeBERT's second stage.
    """

    name: str
    metric: MetricName = "accuracy"
    source: str | None = None
    test_split: str = "validation"
    rows: int | None = None
    tune_rows: int = 1000
    phrases: bool = False
    both_ends: bool = False
    epochs: float | None = 3.0
    batch_size: int = 32
    learning_rate: float = 2e-4
    small_learning_rate: float = 3e-4
    exit_learning_rate: float = 2e-3


@dataclass(frozen=True)
class ExperimentProtocol:
    """The whole experiment.

    Attributes:
        name: of the set of arrays; sets of different names are never mixed.
        tasks: the data sets.
        large: name of the encoder behind the large model and all models with exits.
        small: names of the complete small encoders; the first is the paper's small stage.
        complete: names of further complete encoders, trained plainly, for the analysis of shallow layers.
        seeds: one training of everything for each.
        targets: speed-ups to compare at.
        objectives: how each small model is trained.
        truncated: depths of the models cut short.
        tokens: longest row.
        warmup: share of the steps in which the learning rate rises.
        exit_epochs: passes of DeeBERT's second stage, where a task has none of its own.
        exits_read: what exits before the last look at: the "first" token, as published, or the "mean" of all.
        dar_weight: lambda of the difficulty-aware term.
        dar_margin: its epsilon.
        difficulty_folds: of the cross-prediction behind difficulty labels, which are made once per task.
        difficulty_seeds: its repeats.
        distill_weight: of learning the large model's logits.
        distill_temperature: divides both sides' logits.
        gatekeeper_alpha: share of the cross-entropy in Gatekeeper's loss.
        gatekeeper_epochs: passes with that loss, after the plain training.
        split_seed: decides which rows are trained and tuned on, for all seeds alike.
        bf16: matrix products of training in bfloat16; None asks the processor.
    """

    name: str
    tasks: tuple[TaskConfig, ...]
    large: str = ""
    small: tuple[str, ...] = ()
    complete: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3)
    targets: tuple[float, ...] = (2.0, 3.0, 4.0)
    objectives: tuple[Objective, ...] = OBJECTIVES
    truncated: tuple[int, ...] = (1, 2, 3)
    tokens: int = 64
    warmup: float = 0.05
    exit_epochs: float = 3.0
    exits_read: Reads = "first"
    dar_weight: float = 0.5
    dar_margin: float = 0.5
    difficulty_folds: int = 3
    difficulty_seeds: int = 3
    distill_weight: float = 1.0
    distill_temperature: float = 2.0
    gatekeeper_alpha: float = 0.5
    gatekeeper_epochs: float = 2.0
    split_seed: int = 0
    bf16: bool | None = None

    def __post_init__(self) -> None:
        if "plain" not in self.objectives:
            raise CascadeError("the objective 'plain' is needed: the others are compared with it")
        if not self.tasks or not self.seeds or not all(one > 1 for one in self.targets):
            raise CascadeError("an experiment needs tasks, seeds, and targets above 1")

    @property
    def stage_lists(self) -> tuple[tuple[str, ...], ...]:
        """The small stages of each cascade: every small model alone, then all of them."""
        alone = tuple((name,) for name in self.small)
        return alone if len(self.small) < 2 else (*alone, self.small)

    def with_models(
        self, large: str | None, small: tuple[str, ...], complete: tuple[str, ...] = ()
    ) -> ExperimentProtocol:
        """The same with other encoders; what is not given stays.

        Raises:
            CascadeError: if the large or the small ones are neither given nor part of the preset, or two have
                one name.
        """
        made = replace(
            self,
            large=Path(large).name if large else self.large,
            small=tuple(Path(one).name for one in small) or self.small,
            complete=tuple(Path(one).name for one in complete) or self.complete,
        )
        if not made.large or not made.small:
            raise CascadeError(f"preset {self.name} names no encoders. Give --large DIR and --small DIR.")
        several = (*made.small, *made.complete)
        if len(set(several)) < len(several):
            raise CascadeError(f"models need names of their own; given: {', '.join(several)}")
        return made

    def task(self, name: str) -> TaskConfig:
        """The plan of a task.

        Raises:
            CascadeError: if there is none of the name.
        """
        for plan in self.tasks:
            if plan.name == name:
                return plan
        raise CascadeError(f"no task {name!r}; the preset has {', '.join(one.name for one in self.tasks)}")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ExperimentProtocol:
        """What `to_json` made, after a round trip through a file."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        plain["tasks"] = tuple(TaskConfig(**one) for one in values["tasks"])
        return cls(**plain)


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
    exits_read="mean",  # MiniLM's first token hardly differs between texts before layer 4
)


def _glue(name: str, metric: MetricName = "accuracy", **more: Any) -> TaskConfig:
    recipe = {
        "epochs": None,
        "learning_rate": 2e-5,
        "small_learning_rate": 2e-5,
        "exit_learning_rate": 2e-5,
    }
    return TaskConfig(name, metric, source=f"nyu-mll/glue:{name}", **{**recipe, **more})


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
        _MINILM, name="minilm-full", tasks=tuple(replace(plan, rows=None) for plan in _MINILM.tasks)
    ),
    "paper": _PAPER,
}
HUB: dict[str, str] = {
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "bert_uncased_L-2_H-768_A-12": "google/bert_uncased_L-2_H-768_A-12",
}
"""Where the presets' own encoders lie."""
PUBLISHED_EPOCHS = {"stage": 5.0, "pabee": 5.0, "deebert": 3.0, "berxit": 3.0, "truncated": 3.0}
"""Passes where a plan leaves them open; "stage" is CascadeBERT's recipe for MRPC."""
