"""One task and seed: every model is trained, reduced to stored outputs, and deleted."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from cascadebert.errors import DataError
from cascadebert.inference.stage import Stage
from cascadebert.paper.early_exit.config import EarlyExitConfig
from cascadebert.paper.early_exit.exit_outputs import ExitOutputs
from cascadebert.paper.early_exit.exit_rules import EntropyThreshold, LearnedExitThreshold
from cascadebert.paper.early_exit.flops import exit_flops
from cascadebert.paper.early_exit.inference import EarlyExitPredictor, compute_exits
from cascadebert.paper.early_exit.training import METHODS, MethodName, train_multi_exit, train_truncated
from cascadebert.paper.model_specs import ModelSpec, model_specs, small_spec
from cascadebert.paper.protocol import LARGE, PUBLISHED_EPOCHS, ExperimentProtocol, TaskConfig
from cascadebert.paper.results import ResultStore
from cascadebert.paper.stored_predictions import ModelInfo, StoredPredictions
from cascadebert.paper.task_data import TaskData
from cascadebert.training.checkpoints import checkpoint_fingerprint, count_flops, fingerprint
from cascadebert.training.config import FitConfig
from cascadebert.training.difficulty import DifficultyLabels, label_difficulty
from cascadebert.training.losses import Objective
from cascadebert.training.train_stage import TrainingData, train_stage
from cascadebert.training.trainer import log, use_bf16
from cascadebert.types import Logits

RECIPE_FIELDS = ("tokens", "warmup", "split_seed")
RECIPE_FIELDS_BY_KIND = {
    "exits": ("exit_epochs", "exits_read"),
    "small": (
        "dar_weight",
        "dar_margin",
        "difficulty_folds",
        "difficulty_seeds",
        "distill_weight",
        "distill_temperature",
        "gatekeeper_alpha",
        "gatekeeper_epochs",
    ),
}
"""Fields of the protocol that decide the outputs of each kind of model, in addition to those of all."""


class PretrainedEncoder(NamedTuple):
    """An encoder that models start from."""

    folder: Path
    fingerprint: str  # of its files

    @classmethod
    def from_folder(cls, folder: Path) -> PretrainedEncoder:
        """The encoder in a checkpoint folder."""
        return cls(folder, checkpoint_fingerprint(folder))


@dataclass(frozen=True)
class Experiment:
    """The training of all models of one task and seed."""

    protocol: ExperimentProtocol
    task: TaskConfig
    data: TaskData
    seed: int
    encoders: Mapping[str, PretrainedEncoder]  # by name
    task_work: Path  # folder of the task's unfinished work

    @property
    def work(self) -> Path:
        """Folder of the trained models, only needed until all outputs and timings are stored."""
        return self.task_work / f"seed-{self.seed}"

    @cached_property
    def training_data(self) -> TrainingData:
        """Texts and labels that all models learn from."""
        names = self.data.label_names
        return TrainingData(self.data.train.texts, self.data.train.label_ids(names), names)

    @cached_property
    def data_fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of the train, tuning and test set."""
        return self.data.fingerprints()

    @cached_property
    def teacher(self) -> Logits:
        """(n, num_labels) logits of the large model on the training set."""
        large = self.open_stage(self.large)
        return large.logits(large.encode(self.data.train.texts))

    @property
    def large(self) -> ModelSpec:
        """The large model."""
        return ModelSpec(LARGE, "large", self.protocol.large)

    @property
    def fit_config(self) -> FitConfig:
        """Training options of the large model."""
        protocol, task = self.protocol, self.task
        return FitConfig(
            max_length=protocol.tokens,
            epochs=task.epochs or PUBLISHED_EPOCHS,
            batch_size=task.batch_size,
            learning_rate=task.learning_rate,
            warmup_ratio=protocol.warmup,
            bf16=protocol.bf16,
            dar_weight=protocol.dar_weight,
            dar_margin=protocol.dar_margin,
            difficulty_folds=protocol.difficulty_folds,
            difficulty_seeds=protocol.difficulty_seeds,
            distill_weight=protocol.distill_weight,
            distill_temperature=protocol.distill_temperature,
            seed=self.seed,
        )

    @property
    def small_config(self) -> FitConfig:
        """Training options of the complete small models."""
        return replace(self.fit_config, learning_rate=self.task.small_learning_rate)

    @property
    def early_exit_config(self) -> EarlyExitConfig:
        """Training options of the multi-exit and the truncated models."""
        protocol, task = self.protocol, self.task
        return EarlyExitConfig(
            max_length=protocol.tokens,
            epochs=task.epochs,
            exit_epochs=task.epochs or protocol.exit_epochs,
            batch_size=task.batch_size,
            learning_rate=task.learning_rate,
            exit_learning_rate=task.exit_learning_rate,
            warmup_ratio=protocol.warmup,
            reads=protocol.exits_read,
            bf16=protocol.bf16,
            seed=self.seed,
        )

    def difficulty(self, small: str) -> DifficultyLabels:
        """Difficulty of the training set for a small encoder, labelled once for all training seeds."""
        shared = self.task_work / "difficulty"
        shared.mkdir(parents=True, exist_ok=True)
        config = replace(self.small_config, seed=self.protocol.seeds[0])
        stage, names = self.encoders[small].folder, self.data.label_names
        return label_difficulty(self.data.train, stage=stage, config=config, names=names, work=shared)

    def recipe(self, spec: ModelSpec) -> str:
        """Fingerprint of all that decides the outputs of a model."""
        names = (*RECIPE_FIELDS, *RECIPE_FIELDS_BY_KIND.get(spec.kind, ()))
        values = {name: getattr(self.protocol, name) for name in names}
        encoders = {name: self.encoders[name].fingerprint for name in (spec.source, self.protocol.large)}
        inputs = (asdict(self.task), values, encoders, self.data_fingerprints, self.seed, spec.method)
        return fingerprint(*inputs, use_bf16(self.protocol.bf16))

    def train(self, spec: ModelSpec) -> Path:
        """Folder of the trained model within `work`; a finished one is not trained again."""
        self.work.mkdir(parents=True, exist_ok=True)
        description = f"{self.task.name}, seed {self.seed}, {spec.method}"
        source, data, work = self.encoders[spec.source].folder, self.training_data, self.work
        if spec.kind == "large":
            return train_stage(source, data, self.fit_config, work=work, description=description)
        if spec.kind == "small":
            return self._train_small(source, spec, description)
        config = self.early_exit_config
        if spec.kind == "truncated":
            return train_truncated(
                source, data, config, layers=spec.layers, work=work, description=description
            )
        method = _method_name(spec)
        return train_multi_exit(
            source,
            data,
            config,
            method=method,
            work=work,
            description=description,
            fine_tuned=self.train(self.large) if METHODS[method].two_stage else None,
        )

    def _train_small(self, source: Path, spec: ModelSpec, description: str) -> Path:
        data, config, objective = self.training_data, self.small_config, None
        if spec.objective == "gatekeeper":
            source = self.train(small_spec(spec.source, "plain"))
            config = replace(config, epochs=self.protocol.gatekeeper_epochs)
            objective = Objective(gatekeeper=self.protocol.gatekeeper_alpha)
        if spec.objective in ("dar", "both"):
            data = replace(data, hard=self.difficulty(spec.source).of(self.data.train))
        if spec.objective in ("distil", "both"):
            data = replace(data, teacher=self.teacher)
        return train_stage(source, data, config, work=self.work, description=description, objective=objective)

    def open_stage(self, spec: ModelSpec) -> Stage:
        """A trained plain stage, in torch and float32."""
        stage = Stage.from_pretrained(
            self.train(spec), engine="torch", precision="float32", max_length=self.protocol.tokens
        )
        return stage.with_labels(self.data.label_names)

    def open_exits(self, spec: ModelSpec) -> EarlyExitPredictor:
        """A trained multi-exit model, with a rule that reads all outputs of its exits."""
        learned = METHODS[_method_name(spec)].heads.learned
        rule = LearnedExitThreshold(0.0) if learned else EntropyThreshold(0.0)
        return EarlyExitPredictor.from_folder(self.train(spec), rule)

    def predict(self, spec: ModelSpec) -> StoredPredictions:
        """Train a model and run it on the tuning and the test set."""
        texts = self.data.predicted.texts
        labels = self.data.predicted.label_ids(self.data.label_names)
        if spec.kind == "exits":
            predictor = self.open_exits(spec)
            tokens = predictor.tokenizer.encode(texts)
            outputs = compute_exits(predictor.model, tokens, label_ids=labels)
            flops = exit_flops(predictor.model, predictor.rule).exits
            layers, hidden = predictor.model.depth, int(predictor.model.encoder_config.hidden_size)
        else:
            stage = self.open_stage(spec)
            tokens = stage.encode(texts)
            outputs = ExitOutputs.from_logits(stage.logits(tokens)[None], None, labels)
            flops, layers, hidden = (count_flops(stage.path),), stage.layers, stage.hidden
        notes = ""
        if spec.objective in ("dar", "both"):
            hard = float(self.difficulty(spec.source).hard.mean())
            notes = f"{100 * hard:.1f} % of the train rows are hard"
        about = ModelInfo(
            task=self.task.name,
            seed=self.seed,
            method=spec.method,
            recipe=self.recipe(spec),
            tune_rows=len(self.data.tune),
            flops=flops,
            layers=layers,
            hidden=hidden,
            timed_as=spec.timed_as,
            notes=notes,
        )
        return StoredPredictions(outputs, tokens.padded_lengths, about)


def store_predictions(experiment: Experiment, store: ResultStore) -> None:
    """Train the models whose outputs are missing, and store these.

    Raises DataError if there are outputs of another recipe.
    """
    for spec in model_specs(experiment.protocol):
        path = store.arrays_path(experiment.task.name, experiment.seed, spec.method)
        if not path.is_file():
            experiment.predict(spec).save(path)
            log.info("%s: done", path.stem)
        elif StoredPredictions.load(path).about.recipe != experiment.recipe(spec):
            raise DataError(
                f"{path} was made from other examples, encoders or settings. Give another --output, or "
                "delete it."
            )


def delete_models(experiment: Experiment) -> None:
    """Delete the trained models of an experiment."""
    shutil.rmtree(experiment.work, ignore_errors=True)


def _method_name(spec: ModelSpec) -> MethodName:
    return next(name for name in METHODS if name == spec.method)
