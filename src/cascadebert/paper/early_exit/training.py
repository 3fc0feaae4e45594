"""Training of the baselines: DeeBERT, PABEE, BERxiT, SWEET, and truncated models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cascadebert.errors import CascadeError, StageError, extra
from cascadebert.inference.engines.torch import POOLER, load_classifier, quiet_transformers
from cascadebert.inference.tokenizer import StageTokenizer, resolve_max_length
from cascadebert.paper.early_exit.exits import Reads
from cascadebert.paper.early_exit.frozen import frozen_states, train_exits
from cascadebert.paper.early_exit.model import ExitHeads, MultiExitModel
from cascadebert.persistence.checkpoint_config import config_int, read_config
from cascadebert.persistence.folder import atomic_directory
from cascadebert.training.checkpoints import checkpoint_fingerprint, fingerprint
from cascadebert.training.config import FitConfig
from cascadebert.training.distillation.distill import distill
from cascadebert.training.distillation.student import (
    StudentSize,
    make_student,
    open_encoder,
    spread_layers,
)
from cascadebert.training.losses import NO_LABEL, Objective
from cascadebert.training.tokenizer_files import copy_tokenizer
from cascadebert.training.train_stage import (
    TrainingData,
    load_with_labels,
    train_classifier,
    train_stage,
    training_recipe,
    unfinished_model,
)
from cascadebert.training.trainer import Loss, log, use_eager_attention

with extra("train"):
    import torch
    from torch import Tensor, nn
    from transformers import set_seed

ExitLoss = Callable[[Tensor, Tensor | None, Tensor, int], Tensor]
"""Loss of (exits, rows, num_labels) logits, (exits, rows) error probabilities or None, (rows,) label ids and
the number of the step, counted from 0."""


@dataclass(frozen=True)
class EarlyExitConfig:
    """Training options of a multi-exit model.

    >>> EarlyExitConfig(FitConfig(), exit_epochs=0)
    Traceback (most recent call last):
    cascadebert.errors.CascadeError: exit_epochs must be above 0, not 0
    """

    fit: FitConfig  # of the training in which the encoder learns
    exit_epochs: float = 3.0  # of DeeBERT's second stage, in which only the exits learn
    exit_learning_rate: float | None = None  # of that stage; None: the same, as published
    reads: Reads = "first"

    def __post_init__(self) -> None:
        for name in ("exit_epochs", "exit_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise CascadeError(f"{name} must be above 0, not {value}")

    def key(self) -> tuple[object, ...]:
        """All that decides the weights."""
        exits = (self.exit_epochs, self.exit_learning_rate, self.reads)
        return (*training_recipe(self.fit), self.fit.seed, *exits)


@dataclass(frozen=True)
class EarlyExitMethod:
    """A way of training a multi-exit model."""

    heads: ExitHeads
    loss: ExitLoss
    epochs: float  # as published, of the training in which the encoder learns
    two_stage: bool = False  # ordinary fine-tuning first; then the exits learn by themselves
    taught: bool = False  # by the last exit, in that second stage


def deebert_loss(logits: Tensor, lte: Tensor | None, labels: Tensor, step: int) -> Tensor:
    """Sum of the cross-entropies of exits 1 to L - 1 (DeeBERT: Xin et al. 2020, section 3.1)."""
    return _cross_entropies(logits[:-1], labels).sum()


def taught_loss(fit: FitConfig) -> ExitLoss:
    """Sum over exits 1 to L - 1 of their cross-entropy and of their distillation from the last exit's logits.

    Its weight and temperature are those with which small stages learn from a large one.
    """
    weight = 1.0 if fit.distill_weight is None else fit.distill_weight
    objective = Objective(distill_weight=weight, distill_temperature=fit.distill_temperature)

    def loss(logits: Tensor, lte: Tensor | None, labels: Tensor, step: int) -> Tensor:
        teacher = logits[-1].detach()
        return torch.stack([objective(taught, labels, teacher=teacher) for taught in logits[:-1]]).sum()

    return loss


def pabee_loss(logits: Tensor, lte: Tensor | None, labels: Tensor, step: int) -> Tensor:
    """Sum of j * CE_j over the sum of j, j = 1 to L (PABEE: Zhou et al. 2020)."""
    weights = torch.arange(1, len(logits) + 1, device=logits.device)
    return (weights * _cross_entropies(logits, labels)).sum() / weights.sum()


def berxit_loss(logits: Tensor, lte: Tensor | None, labels: Tensor, step: int) -> Tensor:
    """In even steps the last exit's cross-entropy, in odd steps the sum of all exits' (Xin et al. 2021).

    The error probability u is regressed on 1 - correct with the squared error, at exits 1 to L - 1 in the odd
    steps, with the weight of the cross-entropy. (It is not needed at the last exit.)
    """
    if step % 2 == 0:
        return _cross_entropies(logits[-1:], labels).sum()
    loss = _cross_entropies(logits, labels).sum()
    known = labels != NO_LABEL
    if lte is None or len(logits) == 1 or not bool(known.any()):
        return loss
    wrong = (logits[:-1].argmax(dim=-1) != labels).float()[:, known]
    return loss + (lte[:-1, known] - wrong).square().mean(dim=1).sum()


def sweet_loss(logits: Tensor, lte: Tensor | None, labels: Tensor, step: int) -> Tensor:
    """Sum of the cross-entropies of all exits (SWEET: Rotem et al. 2023).

    The model cuts the gradients, so that the layers between two exits learn from the second of them alone.
    """
    return _cross_entropies(logits, labels).sum()


METHODS: dict[str, EarlyExitMethod] = {
    "deebert": EarlyExitMethod(ExitHeads(), deebert_loss, epochs=3.0, two_stage=True),
    "pabee": EarlyExitMethod(ExitHeads(shared_pooler=True), pabee_loss, epochs=5.0),
    "berxit": EarlyExitMethod(ExitHeads(learned=True), berxit_loss, epochs=3.0),
    "sweet": EarlyExitMethod(ExitHeads(few=True, separate=True), sweet_loss, epochs=3.0),
    "deebert-distil": EarlyExitMethod(ExitHeads(), deebert_loss, epochs=3.0, two_stage=True, taught=True),
}


def train_truncated(
    source: Path, data: TrainingData, config: FitConfig, *, layers: int, work: Path, description: str
) -> Path:
    """Fine-tune BERT-kL, the first layers of a pretrained encoder with a classifier, into a plain stage."""
    encoder = work / f"truncated-{fingerprint(checkpoint_fingerprint(source), layers)}"
    if not encoder.is_dir():
        distill(source, num_layers=layers, output=encoder)
    return train_stage(encoder, data, config, work=work, description=description)


def train_student(
    large: Path, data: TrainingData, config: FitConfig, *, layers: int, work: Path, description: str
) -> Path:
    """Train a plain stage of so many layers, evenly spaced ones of a fine-tuned model, which is its teacher.

    The data holds the teacher's logits.
    """
    start = work / f"start-{fingerprint(checkpoint_fingerprint(large), layers)}"
    if not start.is_dir():
        teacher = open_encoder(large)
        size, depth = StudentSize(layers, teacher.config.hidden_size), teacher.config.num_hidden_layers
        student = make_student(teacher, size, layers=spread_layers(depth, layers))
        with atomic_directory(start, overwrite=False) as new, quiet_transformers():
            copy_tokenizer(large, new)
            student.save_pretrained(new)
    return train_stage(start, data, config, work=work, description=description)


def train_multi_exit(
    source: Path,
    data: TrainingData,
    config: EarlyExitConfig,
    *,
    method: str,
    work: Path,
    description: str | None = None,
    fine_tuned: Path | None = None,
) -> Path:
    """Train a multi-exit model with a method of `METHODS`, unless it is already in the work folder.

    Starts from a pretrained encoder; the exits' own poolers start from its pooler where it has one. For
    DeeBERT, `fine_tuned` is that encoder already fine-tuned on the data, which replaces the first stage. Its
    second stage runs the frozen encoder once, without dropout, for all exits of all methods. An interrupted
    training resumes from its last checkpoint and ends in the same weights. Difficulty and teacher of the data
    are ignored. Raises CascadeError if `fine_tuned` is given for another method, or its labels are not those
    of the data, and StageError if a checkpoint is incomplete, or of a family that cannot have exits.
    """
    recipe, data, description = METHODS[method], replace(data, hard=None, teacher=None), description or method
    if fine_tuned is not None and not recipe.two_stage:
        raise CascadeError(f"{method} trains encoder and exits together; a tuned model is for deebert alone")
    if recipe.two_stage and fine_tuned is None:
        fine_tuned = train_stage(source, data, config.fit, work=work, description=f"{description}, encoder")
    start = fine_tuned or source
    encoders = sorted(checkpoint_fingerprint(folder) for folder in {source, start})
    key = fingerprint(method, encoders, data.key(), config.key())
    done = work / f"{method}-{key}"
    if done.is_dir():
        log.info("%s: already trained", description)
        return done
    fit, loss = config.fit, _logits_loss(taught_loss(config.fit) if recipe.taught else recipe.loss)
    with unfinished_model(done) as (folder, checkpoints):
        copy_tokenizer(start, folder)
        model = _load_model(source, fine_tuned, data, recipe, config)
        max_length = resolve_max_length(read_config(start), config.fit.max_length, start)
        model.encoder_config.save_pretrained(folder)
        tokens = StageTokenizer(folder, max_length=max_length).encode(data.texts)
        if recipe.two_stage:
            states = frozen_states(
                model, tokens, work=work, key=fingerprint(encoders, data.key(), max_length)
            )
            learning_rate = config.exit_learning_rate or fit.learning_rate
            fit = replace(fit, learning_rate=learning_rate, epochs=config.exit_epochs)
            train_exits(model, states, tokens, data, fit, loss, checkpoints, f"{description}, exits")
        else:
            train_classifier(model, tokens, model.takes_types, data, fit, loss, checkpoints, description)
        model.cpu().save(folder, max_length=max_length)
    return done


def _logits_loss(loss: ExitLoss) -> Loss:
    """A loss of exits as one of the trainer, whose inputs hold the labels."""

    def of_inputs(module: nn.Module, inputs: dict[str, Any], step: int) -> Tensor:
        labels = inputs.pop("labels")
        logits, lte = module(**inputs)
        return loss(logits.float(), None if lte is None else lte.float(), labels, step)

    return of_inputs


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    # (exits,), each as every stage learns it
    return torch.stack([Objective()(exit_logits, labels) for exit_logits in logits])


def _load_model(
    source: Path, tuned: Path | None, data: TrainingData, method: EarlyExitMethod, config: EarlyExitConfig
) -> MultiExitModel:
    pretrained: dict[str, Tensor] = {}
    set_seed(config.fit.seed)
    if tuned is None:
        classifier = load_with_labels(source, data.label_names)
    else:
        expected, actual = read_config(source), read_config(tuned)
        for name in ("num_hidden_layers", "hidden_size"):
            if config_int(expected, name, source) != config_int(actual, name, tuned):
                raise StageError(f"{tuned} is not {source} fine-tuned: {name} differs")
        classifier = load_classifier(tuned)
        pooler = getattr(open_encoder(source), POOLER, None)
        prefix = f"{classifier.base_model_prefix}.{POOLER}."
        pretrained = (
            {} if pooler is None else {prefix + name: value for name, value in pooler.named_parameters()}
        )
    use_eager_attention(classifier)
    heads = replace(method.heads, reads=config.reads)
    model = MultiExitModel(classifier, heads, pretrained=pretrained, seed=config.fit.seed)
    if model.label_names != data.label_names:
        raise CascadeError(
            f"{tuned} has labels {model.label_names}; those of the data are {data.label_names}"
        )
    return model
