"""Fine-tune one checkpoint into one stage."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cascadebert.errors import extra
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.torch import model_inputs, takes_token_types
from cascadebert.inference.engines.torch_checkpoint import load_classifier, quiet_transformers
from cascadebert.inference.stage_kind import stage_kind
from cascadebert.inference.tokenizer import StageTokenizer, resolve_max_length
from cascadebert.persistence.checkpoint_config import read_config
from cascadebert.training.checkpoints import checkpoint_fingerprint, copy_tokenizer, fingerprint
from cascadebert.training.config import FitConfig
from cascadebert.training.losses import Objective
from cascadebert.training.trainer import (
    OptimizerConfig,
    log,
    restrict_embeddings,
    train_steps,
    use_bf16,
    use_eager_attention,
)
from cascadebert.types import Bools, Ints, Logits, Texts

with extra("train"):
    import torch
    from transformers import PreTrainedModel, set_seed

SORTED_BATCHES = 50


@dataclass(frozen=True)
class TrainingData:
    """What one stage is trained on.

    Attributes:
        texts: n texts or pairs.
        label_ids: (n,) `NO_LABEL` where there is none.
        label_names: the labels, in order.
        hard: (n,) difficulty, or None for no difficulty-aware term.
        teacher: (n, num_labels) logits of the last stage, or None for no distillation.
    """

    texts: Texts
    label_ids: Ints
    label_names: tuple[str, ...]
    hard: Bools | None = None
    teacher: Logits | None = None

    def key(self) -> str:
        """Fingerprint of all of it."""
        arrays = [self.label_ids, self.hard, self.teacher]
        return fingerprint(
            self.texts,
            self.label_names,
            [None if a is None else fingerprint(a.tobytes().hex()) for a in arrays],
        )


def train_stage(
    source: Path,
    lesson: TrainingData,
    config: FitConfig,
    *,
    work: Path,
    what: str,
    seed: int | None = None,
    objective: Objective | None = None,
) -> Path:
    """Fine-tune a checkpoint into one stage, or find it already done in the work folder.

    Killed half-way and called again, it goes on from its last checkpoint and ends in the same weights:
    the order of the rows is drawn beforehand from the seed, and the random state is restored.

    Args:
        source: the encoder or classifier to start from, with its own configuration and tokenizer.
        lesson: what to learn.
        config: how.
        work: folder of finished and half-finished products, named by the content they come from.
        what: the stage in words, for the progress bar.
        seed: instead of the configuration's.
        objective: instead of the one that lesson and configuration make.

    Returns:
        The stage's folder within `work`.

    Raises:
        StageError: if the checkpoint is not complete.
    """
    seed = config.seed if seed is None else seed
    config = replace(config, **stage_kind(source).recipe_overrides(config.epochs))
    objective = objective or _objective(lesson, config)
    precision = use_bf16(config.bf16)
    key = fingerprint(checkpoint_fingerprint(source), lesson.key(), recipe(config), seed, objective.key())
    done, part = work / f"stage-{key}", work / f"stage-{key}.part"
    if done.is_dir():
        log.info("%s: trained already", what)
        return done
    model_folder = part / "model"
    shutil.rmtree(model_folder, ignore_errors=True)
    model_folder.mkdir(parents=True)
    set_seed(seed)
    model = load_classifier(
        source,
        num_labels=len(lesson.label_names),
        id2label=dict(enumerate(lesson.label_names)),
        label2id={name: i for i, name in enumerate(lesson.label_names)},
        problem_type=None,
    )
    copy_tokenizer(source, model_folder)
    model.config.save_pretrained(model_folder)
    length = resolve_max_length(read_config(source), config.max_length, source)
    rows = StageTokenizer(model_folder, max_length=length).encode(lesson.texts)
    _run(model, rows, lesson, objective, config, seed=seed, bf16=precision, part=part, what=what)
    with quiet_transformers():
        model.save_pretrained(model_folder)
    model_folder.replace(done)
    shutil.rmtree(part)
    return done


def recipe(config: FitConfig) -> tuple[float | bool, ...]:
    """What of a configuration decides the weights of a plainly trained stage, but for the seed."""
    sizes = (config.max_length, config.epochs, config.batch_size)
    return (*sizes, config.learning_rate, config.warmup_ratio, use_bf16(config.bf16))


def row_order(lengths: Ints, *, batch_size: int, epochs: float, seed: int) -> Ints:
    """Positions of the rows in training order: random, but a batch holds rows of like length.

    Passes over the rows are shuffled one by one and laid end to end; stretches of 50 batches are sorted by
    length and cut into batches, and the batches of a stretch are shuffled.

    Args:
        lengths: (n,) tokens of each row.
        batch_size: rows per batch.
        epochs: passes; a fraction cuts the last one short.
        seed: decides the order.

    Returns:
        (round(n * epochs),) positions.
    """
    rng = np.random.default_rng(seed)
    passes = [rng.permutation(len(lengths)) for _ in range(int(np.ceil(epochs)))]
    order = np.concatenate(passes)[: max(1, round(len(lengths) * epochs))]
    stretches = []
    for start in range(0, len(order), SORTED_BATCHES * batch_size):
        stretch = order[start : start + SORTED_BATCHES * batch_size]
        stretch = stretch[np.argsort(-lengths[stretch], kind="stable")]
        whole = len(stretch) // batch_size * batch_size
        shuffled = rng.permutation(stretch[:whole].reshape(-1, batch_size)).ravel()
        stretches.append(np.concatenate([shuffled, stretch[whole:]]))
    return np.concatenate(stretches)


def _objective(lesson: TrainingData, config: FitConfig) -> Objective:
    """The terms that this lesson has data for."""
    made = Objective()
    if lesson.hard is not None:
        made = replace(made, dar_weight=config.dar_weight, dar_margin=config.dar_margin)
    if lesson.teacher is not None:
        made = replace(
            made, distill_weight=config.distill_weight or 0.0, distill_temperature=config.distill_temperature
        )
    return made


def _run(
    model: PreTrainedModel,
    rows: TokenizedTexts,
    lesson: TrainingData,
    objective: Objective,
    config: FitConfig,
    *,
    seed: int,
    bf16: bool,
    part: Path,
    what: str,
) -> None:
    def loss(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        labels, hard, teacher = (inputs.pop(name, None) for name in ("labels", "hard", "teacher"))
        assert labels is not None
        return objective(module(**inputs).logits.float(), labels, hard, teacher)

    order = row_order(rows.lengths, batch_size=config.batch_size, epochs=config.epochs, seed=seed)
    use_eager_attention(model)
    with restrict_embeddings(model, rows) as seen:
        train_steps(
            model,
            np.split(order, range(config.batch_size, len(order), config.batch_size)),
            collate=Collator(seen, lesson, takes_token_types(model)),
            loss=loss,
            steps=OptimizerConfig(config.learning_rate, config.warmup_ratio, bf16, seed),
            folder=part / "checkpoints",
            what=what,
        )


class Collator:
    """Positions to a padded batch with its labels, difficulty and teacher logits."""

    def __init__(self, rows: TokenizedTexts, lesson: TrainingData, token_types: bool) -> None:
        self._rows, self._lesson, self._token_types = rows, lesson, token_types

    def __call__(self, where: Ints) -> dict[str, torch.Tensor]:
        """The inputs of a step from (rows,) positions."""
        batch = model_inputs(
            self._rows.batch(where, length=int(self._rows.lengths[where].max())), self._token_types
        )
        extras = {
            "labels": self._lesson.label_ids,
            "hard": self._lesson.hard,
            "teacher": self._lesson.teacher,
        }
        batch.update({k: torch.from_numpy(v[where]) for k, v in extras.items() if v is not None})
        return batch
