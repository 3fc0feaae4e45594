"""Trains students on a large encoder's features of unlabelled text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascadebert.data.corpus import Corpus
from cascadebert.errors import extra
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.torch import takes_token_types
from cascadebert.timing import now
from cascadebert.training.checkpoints import checkpoint_fingerprint, copy_tokenizer, fingerprint
from cascadebert.training.config import DistillConfig
from cascadebert.training.distillation.objective import DistillationObjective, Students
from cascadebert.training.distillation.token_store import (
    padding_fraction,
    split_held_out,
    token_batches,
    tokenize_passages,
)
from cascadebert.training.trainer import (
    Inputs,
    OptimizerConfig,
    padded_inputs,
    train_steps,
    use_bf16,
    use_eager_attention,
)
from cascadebert.types import Ints

with extra("train"):
    import torch
    from torch import Tensor
    from transformers import AutoConfig, PreTrainedModel


@dataclass(frozen=True)
class DistillationResult:
    """Losses and throughput of one training run."""

    losses: tuple[float, ...]  # of each student, on held-out passages
    tokens: int  # trained on, without padding
    padding: float  # fraction of the computed tokens that was padding
    tokens_per_second: float | None  # of this call; None if nothing was left to train


def tokenize_corpus(
    corpus: Corpus, source: Path, config: DistillConfig, work: Path
) -> tuple[TokenizedTexts, str]:
    """Tokenise the corpus into the work folder with the tokenizer of `source`, or reuse tokens from there.

    Returns them and the fingerprint of source, text and settings. Raises DataError if the text is too short.
    """
    settings = (config.max_tokens, config.max_length, config.seed)
    key = fingerprint(checkpoint_fingerprint(source), corpus.sha256, settings)
    folder = work / f"text-{key}"
    tokenizer = folder / "tokenizer"
    shutil.rmtree(tokenizer, ignore_errors=True)
    tokenizer.mkdir(parents=True)
    copy_tokenizer(source, tokenizer)
    pad_id = AutoConfig.from_pretrained(source).pad_token_id or 0  # config.json may leave out the default
    (tokenizer / "config.json").write_text(json.dumps({"pad_token_id": pad_id}), "utf-8")
    passages = tokenize_passages(
        corpus,
        tokenizer,
        folder,
        max_length=config.max_length,
        max_tokens=config.max_tokens,
        seed=config.seed,
    )
    return passages, key


def train_students(
    teacher: PreTrainedModel,
    students: Sequence[PreTrainedModel],
    passages: TokenizedTexts,
    config: DistillConfig,
    objective: DistillationObjective,
    *,
    folder: Path,
) -> DistillationResult:
    """Train the students in place, with checkpoints in `folder`; the teacher runs once per batch."""
    bf16, lengths = use_bf16(config.bf16), passages.lengths
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    frozen = deepcopy(teacher).eval().requires_grad_(False)
    torch.nn.Module.to(frozen, device, torch.bfloat16 if bf16 else torch.float32)
    module, token_types = Students(teacher, students, objective, seed=config.seed), takes_token_types(teacher)

    def collate(positions: Ints) -> Inputs:
        return padded_inputs(passages, positions, token_types)

    def losses(module: torch.nn.Module, inputs: Inputs) -> Tensor:
        with torch.no_grad():
            features = objective.features(frozen, inputs)
        result: Tensor = module(teacher_features=features, **inputs)
        return result

    for student in students:
        use_eager_attention(student)
    train, held_out = split_held_out(lengths, seed=config.seed)
    tokens = int(lengths[train].sum()) if config.max_tokens is None else config.max_tokens
    batches = token_batches(lengths, train, budget=config.batch_tokens, tokens=tokens, seed=config.seed)
    amounts = np.array([int(lengths[batch].sum()) for batch in batches])
    start = now()
    done = train_steps(
        module,
        batches,
        collate=collate,
        loss=lambda module, inputs: losses(module, inputs).sum(),
        optimizer=OptimizerConfig(config.learning_rate, config.warmup_ratio, bf16, config.seed),
        folder=folder,
        description=f"distilling, {len(students)} at once" if len(students) > 1 else "distilling",
        amounts=amounts,
        unit="tokens",
        clipped=[torch.nn.ModuleList(pair) for pair in zip(module.students, module.projections, strict=True)],
    )
    speed = done / (now() - start) if done else None
    module.to(device)
    tests = token_batches(
        lengths, held_out, budget=config.batch_tokens, tokens=int(lengths[held_out].sum()), seed=0
    )
    held_out_losses = _mean_losses(lambda inputs: losses(module, inputs), map(collate, tests), device)
    module.to("cpu")
    return DistillationResult(held_out_losses, int(amounts.sum()), padding_fraction(lengths, batches), speed)


@torch.no_grad()
def _mean_losses(
    losses: Callable[[Inputs], Tensor], batches: Iterable[Inputs], device: torch.device
) -> tuple[float, ...]:
    """The loss of each student in float32, averaged over all tokens of the batches."""
    total, count = torch.zeros((), device=device), 0
    for batch in batches:
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        tokens = int(inputs["attention_mask"].sum())
        total = total + losses(inputs) * tokens
        count += tokens
    return tuple(float(loss) for loss in total / count)
