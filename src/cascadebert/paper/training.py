"""One task and seed: every model is trained, reduced to stored outputs, and deleted."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cascadebert.errors import CascadeError, DataError
from cascadebert.inference.stage import Stage
from cascadebert.paper.early_exit.exits import EntropyThreshold, ExitOutputs, LearnedExitThreshold
from cascadebert.paper.early_exit.inference import EarlyExitPredictor, compute_exits
from cascadebert.paper.early_exit.model import exit_flops
from cascadebert.paper.early_exit.training import (
    METHODS,
    EarlyExitConfig,
    train_multi_exit,
    train_student,
    train_truncated,
)
from cascadebert.paper.protocol import HUB, LARGE, ExperimentProtocol, ModelSpec, TaskConfig, small_name
from cascadebert.paper.results import ModelInfo, ResultStore, StoredPredictions
from cascadebert.paper.task_data import TaskData
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.training.checkpoints import checkpoint_fingerprint, count_flops, fingerprint
from cascadebert.training.config import FitConfig
from cascadebert.training.difficulty import DifficultyLabels, label_difficulty
from cascadebert.training.losses import Objective
from cascadebert.training.train_stage import TrainingData, train_stage
from cascadebert.training.trainer import log, use_bf16
from cascadebert.types import Logits

PUBLISHED_EPOCHS = 5.0  # of a stage, in CascadeBERT's recipe for MRPC
TRUNCATED_EPOCHS = 3.0
RECIPE_FIELDS = {"exits": ("exit",), "small": ("dar_", "difficulty_", "distill_", "gatekeeper_")}
"""Beginnings of the fields of the protocol that decide the outputs of one kind of model only."""


def resolve_encoders(protocol: ExperimentProtocol, models: Mapping[str, str]) -> dict[str, Path]:
    """Folders of the encoders of a protocol by name. Raises CascadeError if one is not known."""
    known, encoders = {**HUB, **models}, {}
    for name in dict.fromkeys(spec.source for spec in protocol.models().values()):
        if name not in known:
            raise CascadeError(f"no folder or repository is known for the model {name}. Give its folder.")
        encoders[name] = resolve_checkpoint(known[name])
    return encoders


@dataclass(frozen=True)
class Experiment:
    """The training of all models of one task and seed."""

    protocol: ExperimentProtocol
    task: TaskConfig
    data: TaskData
    seed: int
    encoders: Mapping[str, Path]  # folders by name
    task_work: Path  # folder of the task's unfinished work

    @property
    def work(self) -> Path:
        """Folder of the trained models, only needed until all outputs and timings are stored."""
        return self.task_work / f"seed-{self.seed}"

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the encoders by name."""
        return {name: checkpoint_fingerprint(folder) for name, folder in self.encoders.items()}

    @cached_property
    def _training_data(self) -> TrainingData:
        names = self.data.label_names
        return TrainingData(self.data.train.texts, self.data.train.label_ids(names), names)

    @cached_property
    def _teacher(self) -> Logits:
        # (n, num_labels) logits of the large model on the training set
        large = self.open_stage(self.protocol.models()[LARGE])
        return large.logits(large.encode(self.data.train.texts))

    def _fit_config(self, published_epochs: float = PUBLISHED_EPOCHS, *, small: bool = False) -> FitConfig:
        # the published epochs are for tasks that leave them open
        task, protocol = self.task, self.protocol
        options: dict[str, Any] = {**vars(protocol), **vars(task), "seed": self.seed}
        options |= {"max_length": protocol.tokens, "warmup_ratio": protocol.warmup}
        options |= {"epochs": task.epochs or published_epochs}
        options |= {"learning_rate": task.small_learning_rate} if small else {}
        names = {entry.name for entry in fields(FitConfig)}
        return FitConfig(**{name: value for name, value in options.items() if name in names})

    def early_exit_config(self, spec: ModelSpec) -> EarlyExitConfig:
        """Training options of a multi-exit model."""
        task, protocol, fit = self.task, self.protocol, self._fit_config(METHODS[spec.exits].epochs)
        exit_epochs = task.epochs or protocol.exit_epochs
        return EarlyExitConfig(fit, exit_epochs, task.exit_learning_rate, spec.reads)

    def _difficulty(self, small: str) -> DifficultyLabels:
        # labeled once for all training seeds
        shared = self.task_work / "difficulty"
        shared.mkdir(parents=True, exist_ok=True)
        config = replace(self._fit_config(small=True), seed=self.protocol.seeds[0])
        stage, names = self.encoders[small], self.data.label_names
        return label_difficulty(self.data.train, stage=stage, config=config, names=names, work=shared)

    def recipe(self, spec: ModelSpec) -> str:
        """Fingerprint of all that decides the outputs of a model."""
        protocol = vars(self.protocol)
        names = ["tokens", "warmup", "split_seed"]
        names += [name for name in protocol if name.startswith(RECIPE_FIELDS.get(spec.kind, ()))]
        encoders = {name: self.fingerprints[name] for name in (spec.source, self.protocol.large)}
        options = (asdict(self.task), {name: protocol[name] for name in names}, encoders)
        precision = use_bf16(self.protocol.bf16)
        return fingerprint(*options, self.data.fingerprints, self.seed, spec.method, precision)

    def train(self, spec: ModelSpec) -> Path:
        """Folder of the trained model within `work`; a finished one is not trained again."""
        self.work.mkdir(parents=True, exist_ok=True)
        source, data = self.encoders[spec.source], self._training_data
        common: Any = {"work": self.work, "description": f"{self.task.name}, seed {self.seed}, {spec.method}"}
        if spec.kind == "truncated":
            config = self._fit_config(TRUNCATED_EPOCHS)
            return train_truncated(source, data, config, layers=spec.layers, **common)
        if spec.kind == "student":
            large = self.train(self.protocol.models()[LARGE])
            data = replace(data, teacher=self._teacher)
            return train_student(large, data, self._fit_config(), layers=spec.layers, **common)
        if spec.kind == "exits":
            tuned = self.train(self.protocol.models()[LARGE]) if METHODS[spec.exits].two_stage else None
            exit_config = self.early_exit_config(spec)
            return train_multi_exit(source, data, exit_config, method=spec.exits, fine_tuned=tuned, **common)
        objective, config = None, self._fit_config(small=spec.kind == "small")
        if spec.objective == "gatekeeper":
            source = self.train(self.protocol.models()[small_name(spec.source, "plain")])
            config = replace(config, epochs=self.protocol.gatekeeper_epochs)
            objective = Objective(gatekeeper=self.protocol.gatekeeper_alpha)
        if spec.objective in ("dar", "both"):
            data = replace(data, hard=self._difficulty(spec.source).of(self.data.train))
        if spec.objective in ("distil", "both"):
            data = replace(data, teacher=self._teacher)
        return train_stage(source, data, config, objective=objective, **common)

    def open_stage(self, spec: ModelSpec) -> Stage:
        """A trained plain stage, in torch and float32."""
        options: Any = {"engine": "torch", "precision": "float32", "max_length": self.protocol.tokens}
        return Stage.from_pretrained(self.train(spec), **options).with_labels(self.data.label_names)

    def open_exits(self, spec: ModelSpec) -> EarlyExitPredictor:
        """A trained multi-exit model, with a rule that reads all outputs of its exits."""
        rule = LearnedExitThreshold(0.0) if METHODS[spec.exits].heads.learned else EntropyThreshold(0.0)
        return EarlyExitPredictor.from_folder(self.train(spec), rule)

    def predict(self, spec: ModelSpec) -> StoredPredictions:
        """Train a model and run it on the tuning and the test set."""
        texts, labels = self.data.predicted
        if spec.kind == "exits":
            predictor = self.open_exits(spec)
            tokens = predictor.tokenizer.encode(texts)
            outputs = compute_exits(predictor.model, tokens, label_ids=labels)
            flops = exit_flops(predictor.model, predictor.rule)
            layered, exits = predictor.model.layered, predictor.model.exit_layers
            shape: dict[str, Any] = {"layers": layered.depth, "hidden": layered.width}
            shape |= {} if len(exits) == layered.depth else {"exit_layers": exits}
        else:
            stage = self.open_stage(spec)
            tokens = stage.encode(texts)
            outputs = ExitOutputs.from_logits(stage.logits(tokens)[None], None, labels)
            flops, shape = (count_flops(stage.path),), {"layers": stage.layers, "hidden": stage.hidden}
        notes = ""
        if spec.objective in ("dar", "both"):
            hard = float(self._difficulty(spec.source).hard.mean())
            notes = f"{100 * hard:.1f} % of the train rows are hard"
        origin = (self.task.name, self.seed, spec.method, self.recipe(spec), len(self.data.tune))
        about = ModelInfo(*origin, flops, **shape, timed_as=spec.timed_as, notes=notes)
        return StoredPredictions(outputs, tokens.padded_lengths, about)


def train_models(experiment: Experiment, store: ResultStore, keep: bool) -> None:
    """Store the outputs of all models of a task and seed; with `keep` the models stay."""
    store_predictions(experiment, store)
    if not keep:
        shutil.rmtree(experiment.work, ignore_errors=True)


def store_predictions(experiment: Experiment, store: ResultStore) -> None:
    """Train the models whose outputs are missing. Raises DataError if there are some of another recipe."""
    for spec in experiment.protocol.models().values():
        path = store.arrays_path(experiment.task.name, experiment.seed, spec.method)
        if not path.is_file():
            experiment.predict(spec).save(path)
            log.info("%s: done", path.stem)
        elif StoredPredictions.load(path).about.recipe != experiment.recipe(spec):
            raise DataError(
                f"{path} was made from other examples, encoders or settings. Give another --output, or "
                "delete it."
            )
