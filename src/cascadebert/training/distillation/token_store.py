"""Passages as tokens on disk, read at random without filling memory, in batches with hardly any padding."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from cascadebert.data.corpus import Corpus, passages, sample
from cascadebert.errors import DataError
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.progress import progress_bar
from cascadebert.types import Ints

PROBED = 200
SPECIAL = 4
"""Tokens of a passage that may be special ones, of a pair with a frame such as RoBERTa's."""
FEWEST_TOKENS = 10_000
CHUNK = 4096
STRETCH = 64
HELD_OUT = 0.02
MOST_HELD_OUT = 50_000


@dataclass(frozen=True)
class StoredTokens:
    """What is known of passages on disk.

    Attributes:
        passages: how many.
        tokens: in all, special ones included.
    """

    passages: int
    tokens: int


def write_tokens(
    corpus: Corpus, tokenizer: Path, folder: Path, *, max_length: int, wanted: int | None, seed: int
) -> StoredTokens:
    """Cut a corpus into passages, tokenise them and store the tokens, or find that done.

    Args:
        corpus: the text.
        tokenizer: folder of what tokenises.
        folder: where the tokens go.
        max_length: longest passage in tokens; the few that turn out longer are cut.
        wanted: about how many tokens to store, drawn from all over the corpus; default all.
        seed: decides which documents and how they are cut.

    Raises:
        DataError: if there are too few tokens to learn from.
    """
    done = folder / "stored.json"
    if done.is_file():
        return StoredTokens(**json.loads(done.read_text("utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    characters = _characters_per_token(corpus, tokenizer)
    share = 1.0 if wanted is None else wanted * characters / corpus.characters
    cut = passages(corpus.texts(), characters=characters, longest=max_length - SPECIAL, seed=seed)
    pieces, encoder = sample(cut, share=share, seed=seed), StageTokenizer(tokenizer, max_length=max_length)
    count = tokens = 0
    expected = int(min(share, 1.0) * corpus.characters / characters)
    with (
        (folder / "ids.bin").open("wb") as ids,
        (folder / "types.bin").open("wb") as types,
        (folder / "lengths.bin").open("wb") as lengths,
        progress_bar("tokenising", expected, "tokens") as show,
    ):
        for rows in encoded(pieces, encoder):
            ids.write(rows.ids.tobytes())
            types.write(rows.type_ids.tobytes())
            lengths.write(rows.lengths.tobytes())
            count, tokens = count + len(rows), tokens + len(rows.ids)
            show(min(tokens, expected))
    if tokens < FEWEST_TOKENS:
        raise DataError(
            f"{corpus.words()}: {tokens:,} tokens to learn from; at least {FEWEST_TOKENS:,} are needed, and "
            "a useful student needs millions (60 MB of English are about 14 million). Give more text."
        )
    stored = StoredTokens(count, tokens)
    aside = folder / "stored.part.json"
    aside.write_text(json.dumps(asdict(stored)), "utf-8")
    aside.replace(done)
    return stored


def read_tokens(folder: Path, stored: StoredTokens, pad_id: int) -> TokenizedTexts:
    """The stored passages; their tokens stay on disk until they are asked for."""
    lengths = np.fromfile(folder / "lengths.bin", dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    assert len(lengths) == stored.passages and starts[-1] == stored.tokens
    ids = np.memmap(folder / "ids.bin", dtype=np.int32, mode="r")
    types = np.memmap(folder / "types.bin", dtype=np.int8, mode="r")
    return TokenizedTexts(ids, types, starts, pad_id)


def token_counts(rows: TokenizedTexts, size: int) -> Ints:
    """(size,) how often each token number occurs."""
    counts = np.zeros(size, dtype=np.int64)
    for start in range(0, len(rows.ids), 1 << 24):
        counts += np.bincount(rows.ids[start : start + (1 << 24)], minlength=size)
    return counts


def held_out_rows(lengths: Ints, *, seed: int) -> tuple[Ints, Ints]:
    """Positions to learn from, and some to judge the result on: 2 %, at most 50,000 tokens."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    most = min(MOST_HELD_OUT, HELD_OUT * lengths.sum())
    count = max(1, int(np.searchsorted(np.cumsum(lengths[order]), most)))
    return order[count:], order[:count]


def token_batches(lengths: Ints, positions: Ints, *, budget: int, tokens: int, seed: int) -> list[Ints]:
    """Batches of rows of like length, in random order, with about the same number of tokens each.

    Passes over the rows, each shuffled, are laid end to end; stretches of 64 batches are sorted by length
    and cut where a batch, padded to its longest row, would exceed the budget; the batches of a stretch are
    shuffled.

    Args:
        lengths: (n,) tokens of each row.
        positions: the rows to use.
        budget: tokens of a batch, padding included; a longer row is a batch of its own.
        tokens: in all; the last pass is cut short where they are reached.
        seed: decides the order.
    """
    rng = np.random.default_rng(seed)
    each = int(lengths[positions].sum())
    order = np.concatenate([rng.permutation(positions) for _ in range(-(-tokens // each))])
    seen = np.cumsum(lengths[order])
    order, seen = order[: np.searchsorted(seen, tokens) + 1], seen[: np.searchsorted(seen, tokens) + 1]
    cuts = np.searchsorted(seen, np.arange(STRETCH * budget, seen[-1], STRETCH * budget)) + 1
    found: list[Ints] = []
    for stretch in np.split(order, cuts):
        made = list(_cut(stretch[np.argsort(-lengths[stretch], kind="stable")], lengths, budget))
        found.extend(made[i] for i in rng.permutation(len(made)))
    return found


def padding(lengths: Ints, batches: Iterable[Ints]) -> float:
    """Share of the computed tokens that only fill rows up."""
    real = computed = 0
    for batch in batches:
        real += int(lengths[batch].sum())
        computed += len(batch) * int(lengths[batch].max())
    return 1 - real / computed


def encoded(pieces: Iterable[str | tuple[str, str]], encoder: StageTokenizer) -> Iterator[TokenizedTexts]:
    """Tokens of many passages, some thousand at a time."""
    waiting = iter(pieces)
    while chunk := list(islice(waiting, CHUNK)):
        yield encoder.encode(chunk)  # type: ignore[arg-type]


def _cut(rows: Ints, lengths: Ints, budget: int) -> Iterator[Ints]:
    """Cut rows sorted from long to short into batches within a budget of padded tokens."""
    start = 0
    while start < len(rows):
        count = max(1, budget // int(lengths[rows[start]]))
        yield rows[start : start + count]
        start += count


def _characters_per_token(corpus: Corpus, tokenizer: Path) -> float:
    """Of the beginnings of the corpus's first documents."""
    encoder = StageTokenizer(tokenizer, max_length=1 << 20)
    some = [text[:1000] for text in islice(corpus.texts(), PROBED)]
    special = len(encoder.encode([""]).ids)
    return sum(map(len, some)) / max(1, len(encoder.encode(some).ids) - special * len(some))
