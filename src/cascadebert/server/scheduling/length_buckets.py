"""Rows of which padded lengths may share a batch: those that an engine answers the same, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from cascadebert.inference.batching import TokenizedTexts, padded_length
from cascadebert.inference.stage import Stage

STEP, SHORT, BLOCK, LONGEST = 8, 32, 16, 63
PROBES = 8
ENOUGH = 16
"""Rows of a batch from which on more of them hardly make each quicker."""


@dataclass(frozen=True)
class LengthBuckets:
    """At which padded lengths the rows of a stage wait, and which of these lengths may be mixed.

    `Cascade.predict` pads a row to one of many lengths; of the few rows that wait in a server, hardly two
    would ever meet. Here short ones wait at multiples of 8 tokens, and where few wait at a length, others of
    its group are run with them, all filled up to the longest. A row's answer is the one at its own length,
    to the last bit, so it is a function of the row alone.

    Attributes:
        groups: padded lengths that were found to give the same answers; others stay by themselves.

    >>> lengths = LengthBuckets(((8, 16, 24, 32), (36, 40, 44)))
    >>> lengths.waits_at(10), lengths.waits_at(40), lengths.waits_at(50)
    (16, 40, 50)
    >>> lengths.together(16, {8: 1, 16: 2, 24: 20, 40: 9}.get)
    (16, 8, 24)
    """

    groups: tuple[tuple[int, ...], ...] = ()

    def waits_at(self, own: int) -> int:
        """The length at which rows of a padded length wait."""
        if own > SHORT or not self._group(SHORT):
            return own
        return -(-own // STEP) * STEP

    def together(self, length: int, waiting: Callable[[int], int | None]) -> tuple[int, ...]:
        """The lengths whose rows share a batch: this one, and while rows are few, the next ones.

        Args:
            length: at which rows wait.
            waiting: how many wait at a length.
        """
        found, rows = [length], waiting(length) or 0
        for one in sorted(self._group(length), key=lambda other: abs(other - length)):
            if rows >= ENOUGH:
                break
            if one != length and (more := waiting(one)):
                found.append(one)
                rows += more
        return tuple(found)

    def _group(self, length: int) -> tuple[int, ...]:
        return next((group for group in self.groups if length in group), ())


def find_length_buckets(stage: Stage) -> LengthBuckets:
    """Try on random tokens, on this machine, which padded lengths a stage may mix.

    Tried are lengths up to 32 tokens together, as sums of one or two vectors of 16 numbers, and beyond that
    those with as many whole vectors. If a single number differs in a group, its lengths are not mixed.

    Args:
        stage: that runs the rows.
    """
    own = np.unique(padded_length(np.arange(1, min(LONGEST, stage.tokenizer.max_length) + 1))).tolist()
    own = [one for one in own if one <= LONGEST]
    short = [one for one in own if one <= SHORT]
    groups = list[tuple[int, ...]]()
    if short and short[-1] == SHORT:
        steps = range(STEP, SHORT + 1, STEP)
        if all(_same(stage, one, [other for other in steps if other > one]) for one in short):
            groups.append(tuple(steps))
    for _, members in groupby(own[len(short) :], key=lambda one: one // BLOCK):
        group = tuple(members)
        if all(_same(stage, one, group[i + 1 :]) for i, one in enumerate(group)):
            groups.append(group)
    return LengthBuckets(tuple(groups))


def _same(stage: Stage, length: int, others: Sequence[int]) -> bool:
    """Whether random rows of a length get the same logits at the longer ones."""
    ids = np.random.default_rng(length).integers(stage.tokenizer.vocabulary, size=PROBES * length)
    starts = np.arange(PROBES + 1, dtype=np.int64) * length
    rows = TokenizedTexts(ids.astype(np.int32), np.zeros(len(ids), np.int8), starts, stage.tokenizer.pad_id)
    places = np.arange(PROBES)
    given = [stage.run(rows.batch(places, length=one)) for one in (length, *others)]
    return all(np.array_equal(one, given[0]) for one in given[1:])
