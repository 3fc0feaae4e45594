"""Tokens of many texts, and the batches that they run in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cascadebert.inference.engines.base import TokenBatch
from cascadebert.types import Bools, Ints, PaddingSide

FINE, MIDDLE, COARSE = 2, 4, 8
FINE_UP_TO, MIDDLE_UP_TO = 32, 64


def padded_length(lengths: Ints) -> Ints:
    """(n,) tokens computed for texts of the given lengths: a function of the text alone.

    The next multiple of 2 up to 32 tokens, of 4 up to 64, of 8 above: short texts carry little padding, and
    long ones are equal often enough to fill a batch.

    >>> padded_length(np.array([1, 31, 33, 65])).tolist()
    [2, 32, 36, 72]
    """
    steps = np.where(lengths <= FINE_UP_TO, FINE, np.where(lengths <= MIDDLE_UP_TO, MIDDLE, COARSE))
    return np.asarray(-(-lengths // steps) * steps)


@dataclass(frozen=True)
class Padding:
    """The padding that a model reads without a change of its answers."""

    token_id: int = 0
    side: PaddingSide = "right"  # "none": only texts of exactly one length share a batch

    def length(self, lengths: Ints) -> Ints:
        """(n,) tokens computed for texts of the given lengths."""
        return lengths if self.side == "none" else padded_length(lengths)


@dataclass(frozen=True)
class TokenizedTexts:
    """Tokens of n texts, concatenated."""

    ids: NDArray[np.int32]  # (total,)
    type_ids: NDArray[np.int8]  # (total,) 1 in the second text of a pair
    starts: Ints  # (n + 1,) first token of each text; the last entry is the total
    padding: Padding
    truncated: Bools = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """(n,) True for texts that were cut to the maximum length; empty where that is not known."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Ints:
        """(n,) tokens of each text, special tokens included."""
        return np.diff(self.starts)

    @property
    def padded_lengths(self) -> Ints:
        """(n,) tokens that are computed for each text."""
        return self.padding.length(self.lengths)

    def batch(self, indices: Ints, *, length: int | None = None) -> TokenBatch:
        """The texts at `indices`, padded to `length`, by default the padded length of the longest."""
        lengths = self.starts[indices + 1] - self.starts[indices]
        width = int(self.padding.length(lengths).max()) if length is None else length
        columns = np.arange(width)[None, :]
        if self.padding.side == "left":
            columns = columns - (width - lengths)[:, None]  # negative in the padding
        mask = (columns >= 0) & (columns < lengths[:, None])
        tokens = np.where(mask, self.starts[indices][:, None] + columns, 0)
        return TokenBatch(
            input_ids=np.where(mask, self.ids[tokens], self.padding.token_id).astype(np.int64),
            attention_mask=mask.astype(np.int64),
            token_type_ids=np.where(mask, self.type_ids[tokens], 0).astype(np.int64),
        )


def concatenate_tokens(
    ids: Sequence[Sequence[int]],
    type_ids: Sequence[Sequence[int]] | None,
    padding: Padding,
    truncated: Bools | None = None,
) -> TokenizedTexts:
    """Concatenate the tokens of each text; without `type_ids` all types are 0."""
    lengths = np.fromiter((len(tokens) for tokens in ids), dtype=np.int64, count=len(ids))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(starts[-1]))
    types = np.zeros(len(flat), dtype=np.int8)
    if type_ids is not None:
        types = np.fromiter(chain.from_iterable(type_ids), dtype=np.int8, count=len(flat))
    return TokenizedTexts(
        flat, types, starts, padding, np.zeros(len(ids), np.bool_) if truncated is None else truncated
    )


def join_tokens(parts: Sequence[TokenizedTexts], padding: Padding) -> TokenizedTexts:
    """The tokens of several lists of texts as those of one."""
    if len(parts) == 1:
        return parts[0]
    lengths = [np.zeros(1, np.int64), *(part.lengths for part in parts)]
    return TokenizedTexts(
        np.concatenate([np.zeros(0, np.int32), *(part.ids for part in parts)]),
        np.concatenate([np.zeros(0, np.int8), *(part.type_ids for part in parts)]),
        np.cumsum(np.concatenate(lengths)),
        padding,
        np.concatenate([np.zeros(0, np.bool_), *(part.truncated for part in parts)]),
    )


def length_batches(padded_lengths: Ints, *, tokens: int) -> Iterator[Ints]:
    """Indices of texts in batches of one padded length each, the longest first.

    `tokens` is the budget of a batch; a text longer than it is a batch of its own.

    >>> [batch.tolist() for batch in length_batches(np.array([8, 16, 8, 8]), tokens=16)]
    [[1], [0, 2], [3]]
    """
    order = np.argsort(-padded_lengths, kind="stable")
    ordered = padded_lengths[order]
    for group in np.split(order, np.flatnonzero(np.diff(ordered)) + 1):
        if len(group):
            size = max(1, tokens // int(padded_lengths[group[0]]))
            yield from np.split(group, range(size, len(group), size))
