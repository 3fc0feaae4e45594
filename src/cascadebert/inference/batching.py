"""Tokens of many rows, and the batches they run in. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cascadebert.inference.engines.base import TokenBatch
from cascadebert.types import Ints

FINE, MIDDLE, COARSE = 2, 4, 8
FINE_UP_TO, MIDDLE_UP_TO = 32, 64


def padded_length(lengths: Ints) -> Ints:
    """(n,) tokens that are computed for rows of the given lengths: a function of the row alone.

    The next multiple of 2 up to 32 tokens, of 4 up to 64, of 8 above: short rows bear little padding, and
    long ones meet often enough to fill a batch.

    >>> padded_length(np.array([1, 31, 33, 65])).tolist()
    [2, 32, 36, 72]
    """
    steps = np.where(lengths <= FINE_UP_TO, FINE, np.where(lengths <= MIDDLE_UP_TO, MIDDLE, COARSE))
    return np.asarray(-(-lengths // steps) * steps)


@dataclass(frozen=True)
class TokenizedTexts:
    """Tokens of n rows, laid end to end.

    Attributes:
        ids: (total,) token numbers.
        type_ids: (total,) 1 in the second text of a pair.
        starts: (n + 1,) where each row begins; the last entry is the total.
        pad_id: the token number that fills a row up.
    """

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int8]
    starts: Ints
    pad_id: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Ints:
        """(n,) tokens of each row, special tokens included."""
        return np.diff(self.starts)

    @property
    def padded_lengths(self) -> Ints:
        """(n,) tokens that are computed for each row."""
        return padded_length(self.lengths)

    def batch(self, positions: Ints, *, length: int | None = None) -> TokenBatch:
        """The rows at the given positions, filled up to the longest one's padded length, or the given one."""
        lengths = self.starts[positions + 1] - self.starts[positions]
        columns = np.arange(int(padded_length(lengths).max()) if length is None else length)
        mask = columns < lengths[:, None]
        place = np.where(mask, self.starts[positions][:, None] + columns, 0)
        return TokenBatch(
            input_ids=np.where(mask, self.ids[place], self.pad_id).astype(np.int64),
            attention_mask=mask.astype(np.int64),
            token_type_ids=np.where(mask, self.type_ids[place], 0).astype(np.int64),
        )


def concatenate_tokens(
    ids: Sequence[Sequence[int]], type_ids: Sequence[Sequence[int]] | None, pad_id: int
) -> TokenizedTexts:
    """Lay the tokens of each row end to end; without token types they are all 0."""
    lengths = np.fromiter((len(row) for row in ids), dtype=np.int64, count=len(ids))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(starts[-1]))
    types = np.zeros(len(flat), dtype=np.int8)
    if type_ids is not None:
        types = np.fromiter(chain.from_iterable(type_ids), dtype=np.int8, count=len(flat))
    return TokenizedTexts(flat, types, starts, pad_id)


def length_batches(padded_lengths: Ints, positions: Ints, *, tokens: int) -> Iterator[Ints]:
    """Positions in batches of one padded length each, the longest first.

    Args:
        padded_lengths: (n,) of all rows.
        positions: which rows to run, in any order.
        tokens: budget of a batch; a row longer than it runs alone.

    >>> [batch.tolist() for batch in length_batches(np.array([8, 16, 8, 8]), np.arange(4), tokens=16)]
    [[1], [0, 2], [3]]
    """
    order = positions[np.argsort(-padded_lengths[positions], kind="stable")]
    widths = padded_lengths[order]
    for group in np.split(order, np.flatnonzero(np.diff(widths)) + 1):
        if len(group):
            rows = max(1, tokens // int(padded_lengths[group[0]]))
            yield from np.split(group, range(rows, len(group), rows))
