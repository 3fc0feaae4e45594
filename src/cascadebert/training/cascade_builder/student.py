"""Students of the classifier: encoders that start from its layers and learn its stored hidden states."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from cascadebert.errors import CascadeError, extra
from cascadebert.inference.engines.torch import quiet_transformers
from cascadebert.training.cascade_builder.teacher import TeacherOutputs
from cascadebert.training.checkpoints import checkpoint_fingerprint, fingerprint
from cascadebert.training.config import DistillConfig
from cascadebert.training.distillation.student import (
    StudentSize,
    check_size,
    make_student,
    open_encoder,
    spread_layers,
)
from cascadebert.training.distillation.trainer import Features, HiddenStateObjective, train_students
from cascadebert.training.tokenizer_files import copy_tokenizer
from cascadebert.training.train_stage import unfinished_model
from cascadebert.training.trainer import Inputs, log, use_bf16
from cascadebert.types import Ints

with extra("train"):
    import torch
    from torch import Tensor


def distill_student(
    source: Path,
    size: StudentSize,
    outputs: TeacherOutputs,
    *,
    epochs: float,
    config: DistillConfig,
    work: Path,
    description: str,
) -> Path:
    """Make a small encoder of a classifier, or reuse the one that is finished in the work folder.

    It starts from evenly spaced layers of the classifier and learns its stored last hidden states for
    `epochs` passes; 0 leaves it as it starts. An interrupted training resumes and ends in the same weights.
    `work` holds finished and unfinished students, named by fingerprint; the result is one of its folders,
    with the tokenizer and without a head.

    Of the configuration, `max_tokens` and `max_length` have no effect.

    Raises:
        StageError: If the classifier is of a family, or the size is one, that has no students.
        CascadeError: If there is something to learn, and hidden states of fewer than two texts.
    """
    teacher = open_encoder(source)
    check_size(teacher.config, size)
    if epochs and len(outputs.tokens) < 2:
        raise CascadeError(
            f"hidden states of {len(outputs.tokens)} texts; a student learns from two or more. Run the "
            "classifier with more hidden_tokens."
        )
    recipe = _recipe(outputs, epochs, config) if epochs else ()
    key = fingerprint(checkpoint_fingerprint(source), asdict(size), config.seed, *recipe)
    done = work / f"student-{key}"
    if done.is_dir():
        log.info("%s: already made", description)
        return done
    with unfinished_model(done) as (folder, checkpoints):
        layers = spread_layers(teacher.config.num_hidden_layers, size.layers)
        student = make_student(teacher, size, layers=layers, seed=config.seed)
        if epochs:
            result = train_students(
                teacher,
                [student],
                outputs.tokens,
                replace(config, max_tokens=None),
                HiddenStateObjective(),
                stored_features(outputs),
                folder=checkpoints,
                description=description,
                epochs=epochs,
            )
            log.info("%s: held-out loss %.4f", description, result.losses[0])
        copy_tokenizer(source, folder)
        with quiet_transformers():
            student.save_pretrained(folder)
    return done


def stored_features(outputs: TeacherOutputs) -> Features:
    """The stored last hidden states of a batch, as `HiddenStateObjective` takes them."""
    starts, states = outputs.tokens.starts, outputs.states

    def features(positions: Ints, inputs: Inputs) -> Tensor:
        mask = inputs["attention_mask"].bool()
        rows = np.concatenate([states[starts[i] : starts[i + 1]] for i in positions])
        padded = torch.zeros(*mask.shape, states.shape[1], dtype=torch.float16, device=mask.device)
        padded[mask] = torch.from_numpy(rows).to(mask.device)
        return padded

    return features


def _recipe(outputs: TeacherOutputs, epochs: float, config: DistillConfig) -> tuple[object, ...]:
    """All that decides the weights besides the classifier, the size and the seed.

    The hidden states follow from the classifier and the tokens.
    """
    digests = [
        hashlib.sha256(array.tobytes()).hexdigest()
        for array in (outputs.tokens.ids, outputs.tokens.type_ids, outputs.tokens.starts)
    ]
    rates = (config.learning_rate, config.warmup_ratio)
    return (*digests, epochs, config.batch_tokens, *rates, use_bf16(config.bf16))
