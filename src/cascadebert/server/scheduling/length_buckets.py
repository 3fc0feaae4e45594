"""Length buckets: the padded lengths that may share a batch because the outputs are bitwise equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from cascadebert.inference.batching import padded_length
from cascadebert.inference.stage import Stage
from cascadebert.inference.trial import trial_texts

STEP, SHORT, BLOCK, LONGEST = 8, 32, 16, 63
PROBES = 8
EFFICIENT_ROWS = 16  # from which on larger batches hardly take less time per text


@dataclass(frozen=True)
class LengthBuckets:
    """Groups of padded lengths at which a stage gives bitwise equal outputs.

    `Cascade.predict` pads to many lengths; of the few texts in a server's queue, hardly two would ever share
    one. Here short texts wait at multiples of 8 tokens, and where few wait at a length, others of its group
    join them, all padded to the longest. The output stays that of a text's own length.

    >>> buckets = LengthBuckets(((8, 16, 24, 32), (36, 40, 44)))
    >>> buckets.bucket_for(10), buckets.bucket_for(40), buckets.bucket_for(50)
    (16, 40, 50)
    >>> buckets.mergeable(16, {8: 1, 16: 2, 24: 20, 40: 9}.get)
    (16, 8, 24)
    """

    groups: tuple[tuple[int, ...], ...] = ()  # lengths in no group are never mixed

    def bucket_for(self, length: int) -> int:
        """The length at which a text of this padded length waits."""
        if length > SHORT or not self._group(SHORT):
            return length
        return -(-length // STEP) * STEP

    def mergeable(self, length: int, count: Callable[[int], int | None]) -> tuple[int, ...]:
        """This length and, while `count` gives few texts, the nearest others that may join its batch."""
        lengths, rows = [length], count(length) or 0
        for near in sorted(self._group(length), key=lambda member: abs(member - length)):
            if rows >= EFFICIENT_ROWS:
                break
            if near != length and (waiting := count(near)):
                lengths.append(near)
                rows += waiting
        return tuple(lengths)

    def _group(self, length: int) -> tuple[int, ...]:
        return next((group for group in self.groups if length in group), ())


def find_length_buckets(stage: Stage) -> LengthBuckets:
    """Test on random tokens, on this machine, which padded lengths a stage may mix.

    Candidates are all lengths up to 32 tokens together, as sums of one or two vectors of 16 numbers, and
    above that the lengths with equally many whole vectors. A single differing number rules out a group.
    """
    if stage.tokenizer.padding.side == "none":
        return LengthBuckets()
    lengths = np.unique(padded_length(np.arange(1, min(LONGEST, stage.tokenizer.max_length) + 1))).tolist()
    short = [length for length in lengths if length <= SHORT]
    longer = [length for length in lengths if SHORT < length <= LONGEST]
    groups = list[tuple[int, ...]]()
    if short and short[-1] == SHORT:
        steps = tuple(range(STEP, SHORT + 1, STEP))
        if all(_equal_outputs(stage, length, steps) for length in short):
            groups.append(steps)
    for _, members in groupby(longer, key=lambda length: length // BLOCK):
        group = tuple(members)
        if all(_equal_outputs(stage, length, group) for length in group):
            groups.append(group)
    return LengthBuckets(tuple(groups))


def _equal_outputs(stage: Stage, length: int, group: Sequence[int]) -> bool:
    """True if random texts of a length get the same logits when padded to the longer lengths of a group."""
    texts = trial_texts(stage.tokenizer, PROBES, length, vary=True)
    every = np.arange(PROBES)
    expected = stage.run(texts.batch(every, length=length))
    longer = (stage.run(texts.batch(every, length=padded)) for padded in group if padded > length)
    return all(np.array_equal(logits, expected) for logits in longer)
