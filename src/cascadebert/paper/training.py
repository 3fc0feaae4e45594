"""One task and one seed: every model trained, reduced to arrays, and no longer needed."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from cascadebert.errors import DataError
from cascadebert.inference.stage import Stage
from cascadebert.paper.early_exit.config import EarlyExitConfig
from cascadebert.paper.early_exit.exit_outputs import ExitOutputs
from cascadebert.paper.early_exit.exit_rules import EntropyThreshold, LearnedExitThreshold
from cascadebert.paper.early_exit.flops import exit_flops
from cascadebert.paper.early_exit.inference import EarlyExitPredictor, compute_exits
from cascadebert.paper.early_exit.training import METHODS, train_multi_exit, train_truncated
from cascadebert.paper.model_specs import ModelSpec, ResultStore, model_specs, stage
from cascadebert.paper.protocol import LARGE, PUBLISHED_EPOCHS, ExperimentProtocol, TaskConfig
from cascadebert.paper.stored_predictions import ModelInfo, StoredPredictions
from cascadebert.paper.task_data import TaskData
from cascadebert.training.checkpoints import checkpoint_fingerprint, count_flops, fingerprint
from cascadebert.training.config import FitConfig
from cascadebert.training.difficulty import DifficultyLabels, label_difficulty
from cascadebert.training.losses import Objective
from cascadebert.training.train_stage import TrainingData, train_stage
from cascadebert.training.trainer import log, use_bf16
from cascadebert.types import Logits

NEEDED_BY_ALL = ("tokens", "warmup", "split_seed")
NEEDED_BY = {
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
"""What of a protocol decides the arrays of each kind of model."""


@dataclass(frozen=True)
class Encoders:
    """The encoders' folders.

    Attributes:
        folders: by name.
    """

    folders: dict[str, Path]

    @cached_property
    def keys(self) -> dict[str, str]:
        """Fingerprints of their files, by name."""
        return {name: checkpoint_fingerprint(folder) for name, folder in self.folders.items()}


@dataclass(frozen=True)
class Experiment:
    """One task and seed.

    Attributes:
        protocol: of the experiment.
        plan: of the task.
        rows: of the task.
        seed: of all training.
        sources: the encoders.
        work: folder of the trained models; can be deleted once all arrays and timings are there.
        shared: folder of what all seeds share: difficulty labels.
    """

    protocol: ExperimentProtocol
    plan: TaskConfig
    rows: TaskData
    seed: int
    sources: Encoders
    work: Path
    shared: Path

    @cached_property
    def lesson(self) -> TrainingData:
        """What all models learn."""
        ids = self.rows.train.label_ids(self.rows.names)
        return TrainingData(self.rows.train.texts, ids, self.rows.names)

    @cached_property
    def rows_key(self) -> tuple[str, ...]:
        """Fingerprints of the rows."""
        return self.rows.key()

    @cached_property
    def teacher(self) -> Logits:
        """(n, num_labels) logits of the large model on the train rows."""
        large = self.open(ModelSpec(LARGE, "large", self.protocol.large))
        return large.logits(large.encode(self.rows.train.texts))

    def recipe(self, product: ModelSpec) -> str:
        """Fingerprint of all that decides the product's arrays."""
        named = (*NEEDED_BY_ALL, *NEEDED_BY.get(product.kind, ()))
        values = {name: getattr(self.protocol, name) for name in named}
        used = {name: self.sources.keys[name] for name in (product.source, self.protocol.large)}
        precision = use_bf16(self.protocol.bf16)
        return fingerprint(
            asdict(self.plan), values, used, self.rows_key, self.seed, product.method, precision
        )

    def train(self, product: ModelSpec) -> Path:
        """The trained model's folder within `work`; what is there already is not trained again."""
        self.work.mkdir(parents=True, exist_ok=True)
        what = f"{self.plan.name}, seed {self.seed}, {product.method}"
        source = self.sources.folders[product.source]
        if product.kind == "large":
            return train_stage(source, self.lesson, self.large_config, work=self.work, what=what)
        if product.kind == "truncated":
            return train_truncated(
                source, self.lesson, self.baseline, layers=product.layers, work=self.work, what=what
            )
        if product.kind == "small":
            return self._train_small(source, product, what)
        method = next(name for name in METHODS if name == product.method)
        tuned = None
        if METHODS[method].two_stage:
            tuned = self.train(ModelSpec(LARGE, "large", self.protocol.large))
        return train_multi_exit(
            source, self.lesson, self.baseline, method=method, work=self.work, what=what, tuned=tuned
        )

    @property
    def large_config(self) -> FitConfig:
        """How the large model is trained."""
        protocol, plan = self.protocol, self.plan
        return FitConfig(
            max_length=protocol.tokens,
            epochs=plan.epochs or PUBLISHED_EPOCHS["stage"],
            batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
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
        """How the complete small models are trained."""
        return replace(self.large_config, learning_rate=self.plan.small_learning_rate)

    @property
    def baseline(self) -> EarlyExitConfig:
        """How the baselines are trained."""
        return EarlyExitConfig(
            max_length=self.protocol.tokens,
            epochs=self.plan.epochs,
            exit_epochs=self.plan.epochs or self.protocol.exit_epochs,
            batch_size=self.plan.batch_size,
            learning_rate=self.plan.learning_rate,
            exit_learning_rate=self.plan.exit_learning_rate,
            warmup_ratio=self.protocol.warmup,
            reads=self.protocol.exits_read,
            bf16=self.protocol.bf16,
            seed=self.seed,
        )

    def difficulty(self, small: str) -> DifficultyLabels:
        """Of the train rows, relative to a small model; made once for all seeds of training."""
        self.shared.mkdir(parents=True, exist_ok=True)
        config = replace(self.small_config, seed=self.protocol.seeds[0])
        source = self.sources.folders[small]
        return label_difficulty(
            self.rows.train, stage=source, config=config, names=self.rows.names, work=self.shared
        )

    def _train_small(self, source: Path, product: ModelSpec, what: str) -> Path:
        objective, lesson, config = product.objective, self.lesson, self.small_config
        if objective == "gatekeeper":
            plain = self.train(ModelSpec(stage(product.source, "plain"), "small", product.source))
            config = replace(config, epochs=self.protocol.gatekeeper_epochs)
            sure = Objective(gatekeeper=self.protocol.gatekeeper_alpha)
            return train_stage(plain, lesson, config, work=self.work, what=what, objective=sure)
        if objective in ("dar", "both"):
            lesson = replace(lesson, hard=self.difficulty(product.source).of(self.rows.train))
        if objective in ("distil", "both"):
            lesson = replace(lesson, teacher=self.teacher)
        return train_stage(source, lesson, config, work=self.work, what=what)

    def open(self, product: ModelSpec) -> Stage:
        """A trained plain stage, in torch and float32."""
        opened = Stage.from_pretrained(
            self.train(product), engine="torch", precision="float32", max_length=self.protocol.tokens
        )
        return opened.with_labels(self.rows.names)

    def open_exits(self, product: ModelSpec) -> EarlyExitPredictor:
        """A trained model with exits, with a rule that reads all that its exits say."""
        learned = METHODS[next(name for name in METHODS if name == product.method)].exits.learned
        return EarlyExitPredictor.from_folder(
            self.train(product), LearnedExitThreshold(0.0) if learned else EntropyThreshold(0.0)
        )

    def reduce(self, product: ModelSpec) -> StoredPredictions:
        """Train a model and run it on the tune and test rows."""
        judged = self.rows.judged
        labels = judged.label_ids(self.rows.names)
        if product.kind == "exits":
            early = self.open_exits(product)
            rows = early.tokenizer.encode(judged.texts)
            said = compute_exits(early.model, rows, label_ids=labels)
            flops = exit_flops(early.model, early.rule).exits
            layers, hidden = early.model.depth, early.model.encoder_config.hidden_size
        else:
            opened = self.open(product)
            rows = opened.encode(judged.texts)
            said = ExitOutputs.of(opened.logits(rows)[None], None, labels)
            flops = (count_flops(opened.path),)
            layers, hidden = opened.layers, opened.hidden
        about = ModelInfo(
            self.plan.name,
            self.seed,
            product.method,
            self.recipe(product),
            len(self.rows.tune),
            flops,
            layers,
            int(hidden),
            product.timed_as,
            self._notes(product),
        )
        return StoredPredictions(said, rows.padded_lengths, about)

    def _notes(self, product: ModelSpec) -> str:
        if product.objective not in ("dar", "both"):
            return ""
        return f"{100 * float(self.difficulty(product.source).hard.mean()):.1f} % of the train rows are hard"


def fill(cell: Experiment, store: ResultStore) -> None:
    """Make the arrays of a task and seed that are missing.

    Raises:
        DataError: if arrays are there that another recipe made.
    """
    for product in model_specs(cell.protocol):
        path = store.arrays(cell.plan.name, cell.seed, product.method)
        if not path.is_file():
            cell.reduce(product).save(path)
            log.info("%s: done", path.stem)
        elif StoredPredictions.load(path).about.recipe != cell.recipe(product):
            raise DataError(
                f"{path} was made from other rows, encoders or settings. Give another --output, or delete it."
            )


def forget(cell: Experiment) -> None:
    """Delete a cell's trained models."""
    shutil.rmtree(cell.work, ignore_errors=True)
