"""Fine-tunes one checkpoint into one stage."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cascadebert.errors import extra
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.load import stage_kind
from cascadebert.inference.engines.torch import load_classifier, quiet_transformers, takes_token_types
from cascadebert.inference.tokenizer import StageTokenizer, resolve_max_length
from cascadebert.persistence.checkpoint_config import read_config
from cascadebert.training.checkpoints import checkpoint_fingerprint, copy_tokenizer, fingerprint
from cascadebert.training.config import FitConfig
from cascadebert.training.losses import Objective
from cascadebert.training.trainer import (
    Inputs,
    OptimizerConfig,
    log,
    padded_inputs,
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
    """The examples that one stage is trained on."""

    texts: Texts  # n texts or pairs
    label_ids: Ints  # (n,), `NO_LABEL` for unlabelled examples
    label_names: tuple[str, ...]
    hard: Bools | None = None  # (n,) difficulty; None: no difficulty-aware term
    teacher: Logits | None = None  # (n, num_labels) of the last stage; None: no distillation

    def key(self) -> str:
        """Fingerprint of all of it."""
        arrays = [
            array if array is None else fingerprint(array.tobytes().hex())
            for array in (self.label_ids, self.hard, self.teacher)
        ]
        return fingerprint(self.texts, self.label_names, arrays)


def train_stage(
    source: Path,
    data: TrainingData,
    config: FitConfig,
    *,
    work: Path,
    description: str,
    seed: int | None = None,
    objective: Objective | None = None,
) -> Path:
    """Fine-tune a checkpoint into one stage, or reuse the one that is finished in the work folder.

    After an interruption the same call resumes from the last checkpoint and ends in the same weights: the
    order of the examples is drawn beforehand from the seed, and the random state is restored.

    `work` holds finished and unfinished stages, named by fingerprint; the result is one of its folders.
    `seed` and `objective` replace those that follow from configuration and data. Raises StageError if the
    checkpoint is not complete.
    """
    seed = config.seed if seed is None else seed
    config = replace(config, **stage_kind(source).recipe_overrides(config.epochs))
    objective = objective or _objective(data, config)
    key = fingerprint(
        checkpoint_fingerprint(source), data.key(), training_recipe(config), seed, objective.key()
    )
    done, part = work / f"stage-{key}", work / f"stage-{key}.part"
    if done.is_dir():
        log.info("%s: already trained", description)
        return done
    model_folder = part / "model"
    shutil.rmtree(model_folder, ignore_errors=True)
    model_folder.mkdir(parents=True)
    set_seed(seed)
    model = load_classifier(
        source,
        num_labels=len(data.label_names),
        id2label=dict(enumerate(data.label_names)),
        label2id={name: i for i, name in enumerate(data.label_names)},
        problem_type=None,
    )
    copy_tokenizer(source, model_folder)
    model.config.save_pretrained(model_folder)
    length = resolve_max_length(read_config(source), config.max_length, source)
    texts = StageTokenizer(model_folder, max_length=length).encode(data.texts)
    _run(
        model, texts, data, objective, config, seed=seed, folder=part / "checkpoints", description=description
    )
    with quiet_transformers():
        model.save_pretrained(model_folder)
    model_folder.replace(done)
    shutil.rmtree(part)
    return done


def training_recipe(config: FitConfig) -> tuple[float | bool, ...]:
    """Settings that decide the weights of a stage trained without extra loss terms, besides the seed."""
    sizes = (config.max_length, config.epochs, config.batch_size)
    return (*sizes, config.learning_rate, config.warmup_ratio, use_bf16(config.bf16))


def training_order(lengths: Ints, *, batch_size: int, epochs: float, seed: int) -> Ints:
    """(round(n * epochs),) positions in training order: random, but with batches of similar length.

    Shuffled passes over the n examples are concatenated (a fraction cuts the last one short); stretches of 50
    batches are sorted by length and cut into batches, and the batches of a stretch are shuffled.
    """
    rng = np.random.default_rng(seed)
    passes = [rng.permutation(len(lengths)) for _ in range(int(np.ceil(epochs)))]
    order = np.concatenate(passes)[: max(1, round(len(lengths) * epochs))]
    stretches = []
    for start in range(0, len(order), SORTED_BATCHES * batch_size):
        stretch = order[start : start + SORTED_BATCHES * batch_size]
        stretch = stretch[np.argsort(-lengths[stretch], kind="stable")]
        full = len(stretch) // batch_size * batch_size
        shuffled = rng.permutation(stretch[:full].reshape(-1, batch_size)).ravel()
        stretches.append(np.concatenate([shuffled, stretch[full:]]))
    return np.concatenate(stretches)


def _objective(data: TrainingData, config: FitConfig) -> Objective:
    """The loss terms that there is data for."""
    objective = Objective()
    if data.hard is not None:
        objective = replace(objective, dar_weight=config.dar_weight, dar_margin=config.dar_margin)
    if data.teacher is not None:
        weight, temperature = config.distill_weight or 0.0, config.distill_temperature
        objective = replace(objective, distill_weight=weight, distill_temperature=temperature)
    return objective


def _run(
    model: PreTrainedModel,
    texts: TokenizedTexts,
    data: TrainingData,
    objective: Objective,
    config: FitConfig,
    *,
    seed: int,
    folder: Path,
    description: str,
) -> None:
    def loss(module: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
        labels, hard, teacher = (inputs.pop(name, None) for name in ("labels", "hard", "teacher"))
        assert labels is not None
        return objective(module(**inputs).logits.float(), labels, hard, teacher)

    order = training_order(texts.lengths, batch_size=config.batch_size, epochs=config.epochs, seed=seed)
    use_eager_attention(model)
    with restrict_embeddings(model, texts) as restricted:
        train_steps(
            model,
            np.split(order, range(config.batch_size, len(order), config.batch_size)),
            collate=Collator(restricted, data, takes_token_types(model)),
            loss=loss,
            optimizer=OptimizerConfig(config.learning_rate, config.warmup_ratio, use_bf16(config.bf16), seed),
            folder=folder,
            description=description,
        )


class Collator:
    """Makes a padded batch with labels, difficulty and teacher logits from (rows,) positions."""

    def __init__(self, texts: TokenizedTexts, data: TrainingData, token_types: bool) -> None:
        self._texts, self._token_types = texts, token_types
        self._arrays = {"labels": data.label_ids, "hard": data.hard, "teacher": data.teacher}

    def __call__(self, positions: Ints) -> Inputs:
        """The inputs of a step."""
        batch = padded_inputs(self._texts, positions, self._token_types)
        for name, array in self._arrays.items():
            if array is not None:
                batch[name] = torch.from_numpy(array[positions])
        return batch
