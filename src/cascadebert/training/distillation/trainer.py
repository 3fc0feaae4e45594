"""Teaching students a large encoder's features on unlabelled text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascadebert.data.corpus import Corpus
from cascadebert.errors import extra
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.torch import model_inputs, takes_token_types
from cascadebert.timing import now
from cascadebert.training.checkpoints import checkpoint_fingerprint, copy_tokenizer, fingerprint
from cascadebert.training.config import DistillConfig
from cascadebert.training.distillation.objective import DistillationObjective, Students
from cascadebert.training.distillation.token_store import (
    held_out_rows,
    padding,
    read_tokens,
    token_batches,
    token_counts,
    write_tokens,
)
from cascadebert.training.distillation.vocabulary import keep_tokens, prune_tokenizer
from cascadebert.training.trainer import (
    Inputs,
    OptimizerConfig,
    log,
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
class TokenizedCorpus:
    """Tokenised text to learn from.

    Attributes:
        rows: its tokens, as the students number them.
        tokenizer: folder of the students' tokenizer.
        kept: (vocabulary,) the teacher's number of each of the students' tokens; None where they are equal.
        key: fingerprint of teacher, text and what decides the tokens.
    """

    rows: TokenizedTexts
    tokenizer: Path
    kept: Ints | None
    key: str


@dataclass(frozen=True)
class DistillationResult:
    """How the teaching went.

    Attributes:
        losses: of each student, on passages held out.
        tokens: that were learned from.
        padding: share of the computed tokens that was padding.
        tokens_per_second: of this call; None if nothing was left to do.
    """

    losses: tuple[float, ...]
    tokens: int
    padding: float
    tokens_per_second: float | None


def tokenize_corpus(corpus: Corpus, source: Path, config: DistillConfig, work: Path) -> TokenizedCorpus:
    """Tokenise the corpus into the work folder, with the teacher's vocabulary or the best part of it.

    Args:
        corpus: the text.
        source: the teacher's folder.
        config: how much, how long, with how many tokens.
        work: the work folder.

    Raises:
        StageError: if the vocabulary cannot be made so small.
        DataError: if there is too little text.
    """
    key = fingerprint(checkpoint_fingerprint(source), corpus.sha256, _text_settings(config))
    full, small = work / f"text-{key}", work / f"text-{key}-pruned"
    rows = _stored(corpus, source, config, full)
    if config.vocabulary is None:
        return TokenizedCorpus(rows, full / "tokenizer", None, key)
    model = AutoConfig.from_pretrained(source)
    named = [number for name, number in model.to_dict().items() if name.endswith("_token_id")]
    kept = keep_tokens(
        full / "tokenizer" / "tokenizer.json",
        token_counts(rows, model.vocab_size),
        config.vocabulary,
        also=[number for number in named if isinstance(number, int)],
    )
    log.info("vocabulary: %d of %d tokens kept", len(kept), model.vocab_size)
    return TokenizedCorpus(_stored(corpus, source, config, small, full, kept), small / "tokenizer", kept, key)


def train_students(
    teacher: PreTrainedModel,
    students: Sequence[PreTrainedModel],
    passages: TokenizedCorpus,
    config: DistillConfig,
    transfer: DistillationObjective,
    *,
    folder: Path,
) -> DistillationResult:
    """Train the students in place; the teacher reads every batch once, whatever their number.

    Args:
        teacher: the large encoder; left as it is.
        students: what learns.
        passages: what they read.
        config: how.
        transfer: what they learn.
        folder: for checkpoints.
    """
    bf16, lengths = use_bf16(config.bf16), passages.rows.lengths
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    guide = deepcopy(teacher).eval().requires_grad_(False)
    torch.nn.Module.to(guide, device, torch.bfloat16 if bf16 else torch.float32)
    learners = Students(teacher, students, transfer, seed=config.seed)
    for student in students:
        use_eager_attention(student)
    read = _Reader(guide, passages, transfer)
    rest, held_out = held_out_rows(lengths, seed=config.seed)
    wanted = int(lengths[rest].sum()) if config.max_tokens is None else config.max_tokens
    batches = token_batches(lengths, rest, budget=config.batch_tokens, tokens=wanted, seed=config.seed)
    amounts = np.array([int(lengths[batch].sum()) for batch in batches])
    start = now()
    done = train_steps(
        learners,
        batches,
        collate=read.collate,
        loss=lambda module, inputs: module(wanted=read.features(inputs), **inputs).sum(),
        steps=OptimizerConfig(config.learning_rate, config.warmup_ratio, bf16, config.seed),
        folder=folder,
        what=f"shrinking, {len(students)} at once" if len(students) > 1 else "shrinking",
        amounts=amounts,
        unit="tokens",
        clipped=[torch.nn.ModuleList(pair) for pair in zip(learners.students, learners.bridges, strict=True)],
    )
    speed = done / (now() - start) if done else None
    judged = token_batches(
        lengths, held_out, budget=config.batch_tokens, tokens=int(lengths[held_out].sum()), seed=0
    )
    losses = _judge(learners, judged, read, device)
    learners.to("cpu")
    return DistillationResult(losses, int(amounts.sum()), padding(lengths, batches), speed)


class _Reader:
    """Batches of passages, and what the teacher makes of them."""

    def __init__(
        self, teacher: PreTrainedModel, passages: TokenizedCorpus, transfer: DistillationObjective
    ) -> None:
        self._teacher, self._rows, self._transfer = teacher, passages.rows, transfer
        self._types = takes_token_types(teacher)
        self._kept = None if passages.kept is None else torch.from_numpy(passages.kept)

    def collate(self, where: Ints) -> Inputs:
        return model_inputs(self._rows.batch(where, length=int(self._rows.lengths[where].max())), self._types)

    @torch.no_grad()
    def features(self, inputs: Inputs) -> Tensor:
        given = dict(inputs)
        if self._kept is not None:
            self._kept = self._kept.to(given["input_ids"].device)
            given["input_ids"] = self._kept[given["input_ids"]]
        return self._transfer.features(self._teacher, given)


@torch.no_grad()
def _judge(
    learners: Students, batches: Sequence[Ints], read: _Reader, device: torch.device
) -> tuple[float, ...]:
    """The mean loss of each student (in float32) over batches of held-out tokens, weighted by tokens."""
    learners.to(device)
    total, count = torch.zeros(len(learners.students), device=device), 0
    for batch in batches:
        inputs = {name: tensor.to(device) for name, tensor in read.collate(batch).items()}
        tokens = int(inputs["attention_mask"].sum())
        total += learners(wanted=read.features(inputs), **inputs) * tokens
        count += tokens
    return tuple(float(loss) for loss in total / count)


def _stored(
    corpus: Corpus,
    source: Path,
    config: DistillConfig,
    folder: Path,
    full: Path | None = None,
    kept: Ints | None = None,
) -> TokenizedTexts:
    """Tokens by the tokenizer of `source`, or by what is kept of the one in `full`."""
    tokenizer = folder / "tokenizer"
    shutil.rmtree(tokenizer, ignore_errors=True)
    tokenizer.mkdir(parents=True)
    pad_id = AutoConfig.from_pretrained(source).pad_token_id or 0
    if kept is None or full is None:
        copy_tokenizer(source, tokenizer)
    else:
        prune_tokenizer(full / "tokenizer", tokenizer, kept)
        pad_id = int(np.searchsorted(kept, pad_id))
    (tokenizer / "config.json").write_text(json.dumps({"pad_token_id": pad_id}), "utf-8")
    stored = write_tokens(
        corpus, tokenizer, folder, max_length=config.max_length, wanted=config.max_tokens, seed=config.seed
    )
    return read_tokens(folder, stored, pad_id)


def recipe(config: DistillConfig) -> tuple[object, ...]:
    """What of a configuration decides the weights, but for the text."""
    return (
        config.batch_tokens,
        config.learning_rate,
        config.warmup_ratio,
        use_bf16(config.bf16),
        config.seed,
    )


def _text_settings(config: DistillConfig) -> tuple[object, ...]:
    return (config.max_tokens, config.vocabulary, config.max_length, config.seed)
