"""Fine-tunes one checkpoint into one stage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cascadebert.errors import extra
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.base import TokenBatch
from cascadebert.inference.engines.load import stage_kind
from cascadebert.inference.engines.torch import (
    load_classifier,
    model_inputs,
    quiet_transformers,
    takes_token_types,
)
from cascadebert.inference.stage import Stage
from cascadebert.inference.tokenizer import StageTokenizer, gives_token_types, resolve_max_length
from cascadebert.persistence.checkpoint_config import read_config
from cascadebert.training.checkpoints import checkpoint_fingerprint, fingerprint
from cascadebert.training.config import FitConfig
from cascadebert.training.losses import Objective
from cascadebert.training.stage_check import find_padding, sample_texts
from cascadebert.training.stage_limits import set_limits
from cascadebert.training.tokenizer_files import copy_tokenizer
from cascadebert.training.trainer import (
    Inputs,
    Loss,
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

PROBES = 8
SORTED_BATCHES = 50


@dataclass(frozen=True)
class TrainingData:
    """The examples that one stage is trained on."""

    texts: Texts  # n texts or pairs
    label_ids: Ints  # (n,), `NO_LABEL` for unlabeled examples
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
    objective: Objective | None = None,
) -> Path:
    """Fine-tune a checkpoint into one stage, or reuse the one that is finished in the work folder.

    An interrupted training resumes and ends in the same weights, see `train_steps`. `work` holds finished and
    unfinished stages, named by fingerprint; the result is one of its folders. `objective` replaces the one
    that follows from configuration and data. Raises StageError if the checkpoint is not complete.
    """
    config = stage_config(config, source)
    objective = objective or _objective(data, config)
    recipe = (training_recipe(config), config.seed, objective.key())
    key = fingerprint(checkpoint_fingerprint(source), data.key(), *recipe)
    done = work / f"stage-{key}"
    if done.is_dir():
        log.info("%s: already trained", description)
        return done

    def loss(module: torch.nn.Module, inputs: Inputs, step: int) -> torch.Tensor:
        labels, hard, teacher = (inputs.pop(name, None) for name in ("labels", "hard", "teacher"))
        assert labels is not None
        return objective(module(**inputs).logits.float(), labels, hard, teacher)

    with unfinished_model(done) as (folder, checkpoints):
        set_seed(config.seed)
        model = load_with_labels(source, data.label_names)
        copy_tokenizer(source, folder)
        if stage_kind(source).own_engine is None:
            set_limits(model, folder)
        model.config.save_pretrained(folder)
        max_length = resolve_max_length(read_config(folder), config.max_length, source)
        tokens = _encode(model, folder, max_length, data.texts)
        use_eager_attention(model)
        token_types = takes_token_types(model, given=gives_token_types(folder))
        train_classifier(model, tokens, token_types, data, config, loss, checkpoints, description)
        with quiet_transformers():
            model.save_pretrained(folder)
    return done


def _encode(model: PreTrainedModel, folder: Path, max_length: int, texts: Texts) -> TokenizedTexts:
    """Tokens of the texts, with the padding that the model tolerates."""
    tokenizer = StageTokenizer(folder, max_length=max_length)
    tokens, types = tokenizer.encode(texts), takes_token_types(model, given=gives_token_types(folder))

    @torch.inference_mode()
    def run(batch: TokenBatch) -> Logits:
        return np.asarray(model(**model_inputs(batch, types)).logits.float().cpu().numpy())

    if stage_kind(folder).own_engine is not None:
        return tokens
    side = find_padding(run, tokenizer, sample_texts(texts, PROBES))
    return replace(tokens, padding=replace(tokens.padding, side=side))


def open_trained(folder: Path, config: FitConfig, texts: Texts) -> Stage:
    """A trained stage in torch, with the padding that it tolerates for such texts."""
    stage = Stage.from_pretrained(folder, engine="torch", precision="float32", max_length=config.max_length)
    if stage_kind(folder).own_engine is not None:
        return stage
    side = find_padding(stage.engine.logits, stage.tokenizer, sample_texts(texts, PROBES))
    own = StageTokenizer(folder, max_length=stage.tokenizer.max_length, padding_side=side)
    return replace(stage, tokenizer=own)


def stage_config(config: FitConfig, source: Path) -> FitConfig:
    """The configuration with the settings that stages of the checkpoint's kind need."""
    return replace(config, **stage_kind(source).recipe_overrides(config.epochs))


@contextmanager
def unfinished_model(done: Path) -> Iterator[tuple[Path, Path]]:
    """Folders for a model, which becomes `done` at the end, and for checkpoints; both lie in `DONE.part`."""
    part = done.with_name(f"{done.name}.part")
    folder = part / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder, part / "checkpoints"
    folder.replace(done)
    shutil.rmtree(part)


def load_with_labels(source: Path, label_names: tuple[str, ...]) -> PreTrainedModel:
    """Load a checkpoint as a classifier of these labels, with a new head where its own does not fit."""
    id2label = dict(enumerate(label_names))
    label2id = {name: i for i, name in id2label.items()}
    return load_classifier(
        source, num_labels=len(label_names), id2label=id2label, label2id=label2id, problem_type=None
    )


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
        objective = Objective(config.dar_weight, config.dar_margin)
    if data.teacher is not None:
        weight, temperature = config.distill_weight or 0.0, config.distill_temperature
        objective = replace(objective, distill_weight=weight, distill_temperature=temperature)
    return objective


def train_classifier(
    model: torch.nn.Module,
    tokens: TokenizedTexts,
    token_types: bool,
    data: TrainingData,
    config: FitConfig,
    loss: Loss,
    folder: Path,
    description: str,
) -> None:
    """Train a model in place; its inputs hold `labels`, and `hard` and `teacher` where there are any."""
    size, arrays = config.batch_size, {"labels": data.label_ids, "hard": data.hard, "teacher": data.teacher}
    order = training_order(tokens.lengths, batch_size=size, epochs=config.epochs, seed=config.seed)
    batches = np.split(order, range(size, len(order), size))
    with restrict_embeddings(model, tokens) as restricted:

        def collate(positions: Ints) -> Inputs:
            batch = padded_inputs(restricted, positions, token_types)
            for name, array in arrays.items():
                if array is not None:
                    batch[name] = torch.from_numpy(array[positions])
            return batch

        train_steps(model, batches, config, collate, loss, folder=folder, description=description)
