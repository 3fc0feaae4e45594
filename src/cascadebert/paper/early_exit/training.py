"""Train the baselines: DeeBERT, PABEE, BERxiT, and models cut short."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cascadebert.errors import CascadeError, StageError, extra
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.torch_checkpoint import load_classifier
from cascadebert.inference.tokenizer import StageTokenizer, resolve_max_length
from cascadebert.paper.early_exit.config import EarlyExitConfig
from cascadebert.paper.early_exit.model import ExitHeads, MultiExitModel
from cascadebert.persistence.checkpoint_config import config_int, read_config
from cascadebert.training.checkpoints import checkpoint_fingerprint, copy_tokenizer, fingerprint
from cascadebert.training.distillation.distill import distill
from cascadebert.training.distillation.student import open_encoder
from cascadebert.training.losses import NO_LABEL, Objective
from cascadebert.training.train_stage import Collator, TrainingData, row_order, train_stage
from cascadebert.training.trainer import (
    OptimizerConfig,
    log,
    restrict_embeddings,
    train_steps,
    use_bf16,
    use_eager_attention,
)

with extra("train"):
    import torch
    from torch import Tensor, nn
    from transformers import set_seed

MethodName = Literal["deebert", "pabee", "berxit"]
ExitLoss = Callable[[Tensor, Tensor | None, Tensor, int], Tensor]
"""From (exits, rows, num_labels) logits, (exits, rows) chances of being wrong or None, (rows,) label ids and
the number of the step, counted from 0."""

TRUNCATED_EPOCHS = 3.0


@dataclass(frozen=True)
class EarlyExitMethod:
    """One way of training a model with exits.

    Attributes:
        name: of the method.
        exits: what its exits are made of.
        loss: what it learns.
        epochs: as published, of the training in which the encoder learns.
        two_stage: whether the model is fine-tuned as usual first, and the exits then learn by themselves.
    """

    name: MethodName
    exits: ExitHeads
    loss: ExitLoss
    epochs: float
    two_stage: bool = False


def deebert_loss(logits: Tensor, lte: Tensor | None, labels: Tensor, step: int) -> Tensor:
    """Sum of the cross-entropies of exits 1 to L - 1 (DeeBERT: Xin et al. 2020, section 3.1)."""
    return torch.stack([_entropy(one, labels) for one in logits[:-1]]).sum()


def pabee_loss(logits: Tensor, lte: Tensor | None, labels: Tensor, step: int) -> Tensor:
    """Sum of j * CE_j over the sum of j, j = 1 to L (PABEE: Zhou et al. 2020)."""
    weights = torch.arange(1, len(logits) + 1, device=logits.device)
    each = torch.stack([_entropy(one, labels) for one in logits])
    return (weights * each).sum() / weights.sum()


def berxit_loss(logits: Tensor, lte: Tensor | None, labels: Tensor, step: int) -> Tensor:
    """In even steps the last exit's cross-entropy, in odd ones the sum of all exits' (Xin et al. 2021).

    The learned chance u of being wrong is regressed on 1 - correct with the squared error, at exits 1 to
    L - 1 in the odd steps, at the weight of the cross-entropy beside it. (At the last exit nobody asks.)
    """
    if step % 2 == 0:
        return _entropy(logits[-1], labels)
    loss = torch.stack([_entropy(one, labels) for one in logits]).sum()
    known = labels != NO_LABEL
    if lte is None or len(logits) == 1 or not bool(known.any()):
        return loss
    wrong = (logits[:-1].argmax(dim=-1) != labels).float()[:, known]
    return loss + (lte[:-1, known] - wrong).square().mean(dim=1).sum()


METHODS: dict[MethodName, EarlyExitMethod] = {
    "deebert": EarlyExitMethod("deebert", ExitHeads(), deebert_loss, epochs=3.0, two_stage=True),
    "pabee": EarlyExitMethod("pabee", ExitHeads(shared_pooler=True), pabee_loss, epochs=5.0),
    "berxit": EarlyExitMethod("berxit", ExitHeads(learned=True), berxit_loss, epochs=3.0),
}


def train_truncated(
    source: Path,
    lesson: TrainingData,
    config: EarlyExitConfig,
    *,
    layers: int,
    work: Path,
    what: str = "truncated",
) -> Path:
    """BERT-kL: the first layers of an encoder and a classifier, fine-tuned as usual.

    Args:
        source: the pretrained encoder.
        lesson: what to learn; difficulty and teacher are left out.
        config: how.
        layers: k.
        work: folder of finished and half-finished products.
        what: the model in words, for the progress bar.

    Returns:
        Folder of a plain stage within `work`.
    """
    cut = work / f"cut-{fingerprint(checkpoint_fingerprint(source), layers)}"
    if not cut.is_dir():
        distill(source, num_layers=layers, output=cut)
    return train_stage(cut, _labels_only(lesson), config.plain(TRUNCATED_EPOCHS), work=work, what=what)


def train_multi_exit(
    source: Path,
    lesson: TrainingData,
    config: EarlyExitConfig,
    *,
    method: MethodName,
    work: Path,
    what: str | None = None,
    tuned: Path | None = None,
) -> Path:
    """Train a model with exits, or find it already done in the work folder.

    Killed half-way and called again, it goes on from its last checkpoint and ends in the same weights.
    Dropout is on wherever a layer runs, in DeeBERT's frozen encoder too, as in their release.

    Args:
        source: the pretrained encoder; exits' own poolers start from its pooler where it has one.
        lesson: what to learn; difficulty and teacher are left out.
        config: how.
        method: "deebert", "pabee" or "berxit".
        work: folder of finished and half-finished products, named by the content they come from.
        what: the model in words, for the progress bar; default the method's name.
        tuned: for DeeBERT, the same encoder already fine-tuned on the lesson, in place of its first stage.

    Returns:
        The model's folder within `work`, for `MultiExitModel.load` and `EarlyExit.from_folder`.

    Raises:
        CascadeError: if `tuned` is given for another method, or its labels are not the lesson's.
        StageError: if a checkpoint is not complete, or of a family that cannot have exits.
    """
    plan, lesson, what = METHODS[method], _labels_only(lesson), what or method
    if tuned is not None and not plan.two_stage:
        raise CascadeError(f"{method} trains encoder and exits together; a tuned model is for deebert alone")
    if plan.two_stage and tuned is None:
        tuned = train_stage(source, lesson, config.plain(plan.epochs), work=work, what=f"{what}, encoder")
    start = source if tuned is None else tuned
    keys = [checkpoint_fingerprint(one) for one in {source, start}]
    key = fingerprint(method, sorted(keys), lesson.key(), config.key())
    done, part = work / f"{method}-{key}", work / f"{method}-{key}.part"
    if done.is_dir():
        log.info("%s: trained already", what)
        return done
    folder = part / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy_tokenizer(start, folder)
    model = _opened(source, tuned, lesson, plan, config)
    length = resolve_max_length(read_config(start), config.max_length, start)
    model.encoder_config.save_pretrained(folder)
    rows = StageTokenizer(folder, max_length=length).encode(lesson.texts)
    _run(model, rows, lesson, plan, config, part=part, what=f"{what}, exits" if plan.two_stage else what)
    model.cpu().save(folder, max_length=length)
    folder.replace(done)
    shutil.rmtree(part)
    return done


def _labels_only(lesson: TrainingData) -> TrainingData:
    return replace(lesson, hard=None, teacher=None)


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy as every stage learns it."""
    return Objective()(logits, labels)


def _opened(
    source: Path, tuned: Path | None, lesson: TrainingData, plan: EarlyExitMethod, config: EarlyExitConfig
) -> MultiExitModel:
    """The model before its exits learn; in two stages all but the exits before the last is frozen."""
    set_seed(config.seed)
    if tuned is None:
        labels = dict(enumerate(lesson.label_names))
        named = {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}
        classifier = load_classifier(source, num_labels=len(labels), problem_type=None, **named)
        pooler = None
    else:
        _refuse_other(source, tuned)
        classifier = load_classifier(tuned)
        pooler = _pretrained_pooler(source)
    use_eager_attention(classifier)
    exits = replace(plan.exits, reads=config.reads)
    model = MultiExitModel(classifier, exits, pooler=pooler, seed=config.seed)
    if model.label_names != lesson.label_names:
        raise CascadeError(f"{tuned} has labels {model.label_names}; the lesson's are {lesson.label_names}")
    if plan.two_stage:
        model.requires_grad_(False)
        for part in (*model.poolers[:-1], *model.classifiers[:-1]):
            part.requires_grad_(True)
    return model


def _pretrained_pooler(source: Path) -> nn.Linear | None:
    encoder, pooled = open_encoder(source)
    inner: Any = encoder
    dense: nn.Linear | None = inner.pooler.dense if pooled else None
    return dense


def _refuse_other(source: Path, tuned: Path) -> None:
    """Refuse a tuned model that cannot come from the source."""
    own, other = read_config(source), read_config(tuned)
    for name in ("num_hidden_layers", "hidden_size"):
        if config_int(own, name, source) != config_int(other, name, tuned):
            raise StageError(f"{tuned} is not {source} fine-tuned: {name} differs")


def _run(
    model: MultiExitModel,
    rows: TokenizedTexts,
    lesson: TrainingData,
    plan: EarlyExitMethod,
    config: EarlyExitConfig,
    *,
    part: Path,
    what: str,
) -> None:
    plain = config.plain(plan.epochs)
    rate, epochs = config.learning_rate, plain.epochs
    if plan.two_stage:
        rate, epochs = config.exit_learning_rate or rate, config.exit_epochs

    def loss(module: nn.Module, inputs: dict[str, Any]) -> Tensor:
        labels, step = inputs.pop("labels"), int(inputs.pop("step"))
        logits, lte = module(**inputs)
        return plan.loss(logits.float(), None if lte is None else lte.float(), labels, step)

    order = row_order(rows.lengths, batch_size=plain.batch_size, epochs=epochs, seed=config.seed)
    batches = np.split(order, range(plain.batch_size, len(order), plain.batch_size))
    numbered = [np.concatenate([[step], batch]) for step, batch in enumerate(batches)]  # the loss may ask
    with restrict_embeddings(model, rows) as seen:
        collator = Collator(seen, lesson, model.takes_types)
        train_steps(
            model,
            numbered,
            collate=lambda where: {**collator(where[1:]), "step": torch.from_numpy(where[:1])},
            loss=loss,
            steps=OptimizerConfig(rate, config.warmup_ratio, use_bf16(config.bf16), config.seed),
            folder=part / "checkpoints",
            what=what,
        )
