"""Passages as tokens on disk, in batches with hardly any padding, read without filling memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from cascadebert.atomic import atomic_file
from cascadebert.data.corpus import Corpus, passages, sample
from cascadebert.errors import DataError, extra
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.progress import progress_bar
from cascadebert.training.config import DistillConfig
from cascadebert.training.tokenizer_files import copy_tokenizer
from cascadebert.types import Ints

with extra("train"):
    from transformers import AutoConfig

PROBED_DOCUMENTS = 200
MAX_SPECIAL_TOKENS = 4  # of a pair in a frame such as RoBERTa's
MIN_TOKENS = 10_000
ENCODE_CHUNK = 4096
SORTED_BATCHES = 64
HELD_OUT, MAX_HELD_OUT = 0.02, 50_000  # fraction of the tokens, tokens


def tokenize_corpus(corpus: Corpus, source: Path, config: DistillConfig, folder: Path) -> TokenizedTexts:
    """Cut a corpus into passages and store their tokens in `folder`, or reuse those stored there.

    The tokenizer is that of `source`. About `max_tokens` tokens are stored, of passages sampled from the
    whole corpus; None stores all. The few passages that turn out longer than `max_length` are truncated.
    Raises DataError if there are too few tokens.
    """
    tokenizer = folder / "tokenizer"
    shutil.rmtree(tokenizer, ignore_errors=True)
    tokenizer.mkdir(parents=True)
    copy_tokenizer(source, tokenizer)
    pad_id = AutoConfig.from_pretrained(source).pad_token_id or 0  # config.json may leave out the default
    (tokenizer / "config.json").write_text(json.dumps({"pad_token_id": pad_id}), "utf-8")
    encoder = StageTokenizer(tokenizer, max_length=config.max_length)
    if not (folder / "lengths.npy").is_file():  # written last
        lengths = _write(corpus, encoder, _characters_per_token(corpus, tokenizer), config, folder)
        if lengths.sum() < MIN_TOKENS:
            raise DataError(
                f"{corpus.description}: {lengths.sum():,} tokens to learn from; at least {MIN_TOKENS:,} are "
                "needed, and a useful student needs millions (60 MB of English are about 14 million). "
                "Give more text."
            )
        with atomic_file(folder / "lengths.npy") as file:
            np.save(file, lengths)
    starts = np.concatenate([[0], np.cumsum(np.load(folder / "lengths.npy", allow_pickle=False))])
    ids = np.memmap(folder / "ids.bin", dtype=np.int32, mode="r")
    types = np.memmap(folder / "types.bin", dtype=np.int8, mode="r")
    assert len(ids) == len(types) == starts[-1]
    return TokenizedTexts(ids, types, starts, encoder.padding)


def _write(
    corpus: Corpus, encoder: StageTokenizer, per_token: float, config: DistillConfig, folder: Path
) -> Ints:
    """Write the tokens to disk, chunk by chunk; return the (n,) lengths of the passages."""
    fraction = 1.0 if config.max_tokens is None else config.max_tokens * per_token / corpus.characters
    expected = int(min(fraction, 1.0) * corpus.characters / per_token)
    longest = config.max_length - MAX_SPECIAL_TOKENS
    pieces = passages(corpus.texts(), characters_per_token=per_token, max_tokens=longest, seed=config.seed)
    sampled = sample(pieces, fraction=fraction, seed=config.seed)
    lengths = [np.empty(0, dtype=np.int64)]
    tokens = 0
    with (
        (folder / "ids.bin").open("wb") as ids,
        (folder / "types.bin").open("wb") as types,
        progress_bar("tokenizing", expected, "tokens") as show,
    ):
        while chunk := list(islice(sampled, ENCODE_CHUNK)):
            texts = encoder.encode(chunk)  # type: ignore[arg-type]
            ids.write(texts.ids.tobytes())
            types.write(texts.type_ids.tobytes())
            lengths.append(texts.lengths)
            tokens += len(texts.ids)
            show(min(tokens, expected))
    return np.concatenate(lengths)


def split_held_out(lengths: Ints, *, seed: int) -> tuple[Ints, Ints]:
    """Positions to train on, and held-out ones with 2 % of the tokens, at most 50,000."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    most = min(MAX_HELD_OUT, HELD_OUT * lengths.sum())
    count = max(1, int(np.searchsorted(np.cumsum(lengths[order]), most)))
    return order[count:], order[:count]


def token_batches(lengths: Ints, positions: Ints, *, budget: int, tokens: int, seed: int) -> list[Ints]:
    """Batches of passages of similar length, in random order, with about the same number of tokens each.

    Shuffled passes over `positions` are concatenated until `tokens` are reached. Stretches of 64 batches are
    sorted by length and cut where a batch, padded to its longest passage, would exceed `budget` tokens (a
    longer passage is a batch of its own); the batches of a stretch are shuffled.
    """
    rng = np.random.default_rng(seed)
    passes = -(-tokens // int(lengths[positions].sum()))
    order = np.concatenate([rng.permutation(positions) for _ in range(passes)])
    totals = np.cumsum(lengths[order])
    count = np.searchsorted(totals, tokens) + 1
    order, totals = order[:count], totals[:count]
    stretch_tokens = SORTED_BATCHES * budget
    cuts = np.searchsorted(totals, np.arange(stretch_tokens, totals[-1], stretch_tokens)) + 1
    result: list[Ints] = []
    for stretch in np.split(order, cuts):
        stretch, batches = stretch[np.argsort(-lengths[stretch], kind="stable")], []
        while len(stretch):
            size = max(1, budget // int(lengths[stretch[0]]))
            batches.append(stretch[:size])
            stretch = stretch[size:]
        result.extend(batches[i] for i in rng.permutation(len(batches)))
    return result


def padding_fraction(lengths: Ints, batches: Iterable[Ints]) -> float:
    """Fraction of the computed tokens that is padding."""
    sizes = [(lengths[batch].sum(), len(batch) * lengths[batch].max()) for batch in batches]
    tokens, computed = np.sum(sizes, axis=0)
    return float(1 - tokens / computed)


def _characters_per_token(corpus: Corpus, tokenizer: Path) -> float:
    """Estimate from the beginnings of the corpus's first documents."""
    encoder = StageTokenizer(tokenizer, max_length=1 << 20)
    beginnings = [text[:1000] for text in islice(corpus.texts(), PROBED_DOCUMENTS)]
    special = len(encoder.encode([""]).ids)
    tokens = len(encoder.encode(beginnings).ids) - special * len(beginnings)
    return sum(map(len, beginnings)) / max(1, tokens)
