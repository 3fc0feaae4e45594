"""How the machine is shared: batch sizes and threads, found by a short measurement at the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from threading import Barrier

import numpy as np

from cascadebert.environment import cores
from cascadebert.inference.batching import TokenizedTexts, padded_length
from cascadebert.inference.engines.base import TokenBatch
from cascadebert.inference.stage import Stage
from cascadebert.server.scheduling.length_buckets import LengthBuckets, find_length_buckets
from cascadebert.timing import interleaved, now

LENGTH = 32
BATCH_SHARE = 0.125
AS_FAST, WORTH_THREAD = 1.15, 1.1
ROUNDS, REPEATS = 3, 3
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Rows of a batch, where an engine prepares itself for each shape: few, so that all are prepared early."""
FULL_ENOUGH = 0.8
DEAR_SHAPE = 1e-3
SHAPE_SECONDS = 60.0


@dataclass(frozen=True)
class BatchingPlan:
    """How batches are run.

    Attributes:
        workers: threads that run them.
        tokens: (num_stages,) budget of a batch, in padded tokens.
        seconds: (num_stages,) of a token in such a batch.
        dear: (num_stages,) a batch of a new shape costs a good deal more the first time.
        lengths: (num_stages,) at which padded lengths rows wait, and which may be mixed.
    """

    workers: int
    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    dear: tuple[bool, ...]
    lengths: tuple[LengthBuckets, ...]

    def most(self, stage: int, length: int) -> int:
        """Rows of a padded length in a batch at most."""
        most = max(1, self.tokens[stage] // length)
        return max(size for size in SIZES if size <= most) if self.dear[stage] else most

    def size(self, stage: int, rows: int) -> tuple[int, int]:
        """How many of some rows to run together, and in a batch of which size.

        Where shapes are dear, rows that nearly fill a size are filled up to it; else some are left.

        Args:
            stage: counted from 0.
            rows: that there are, up to `most`.

        >>> plan = BatchingPlan(1, (512,), (0.0,), (True,), (LengthBuckets(),))
        >>> [plan.size(0, rows) for rows in (3, 5, 9)]
        [(3, 3), (5, 6), (8, 8)]
        """
        if not self.dear[stage]:
            return rows, rows
        above = min(size for size in SIZES if size >= rows)
        if rows >= FULL_ENOUGH * above:
            return rows, above
        below = max(size for size in SIZES if size <= rows)
        return below, below


def autotune(stages: Sequence[Stage], up: Sequence[bool], *, latency_target: float) -> BatchingPlan:
    """Measure budgets and the number of threads; takes a second or less where stages are quick.

    All stages share the worker threads. A batch takes at most an eighth of the latency target, where one
    row does not take more, so that the batches of a large stage do not keep the rows of a small one waiting.

    Args:
        stages: of the cascade.
        up: (num_stages,) which of them can be run.
        latency_target: seconds.
    """
    most = BATCH_SHARE * latency_target
    budgets = [
        _budget(stage, most_seconds=most) if runs else (stage.batch_tokens, 0.0)
        for stage, runs in zip(stages, up, strict=True)
    ]
    runs = [
        partial(stage.run, _batch(stage, max(1, tokens // _length(stage)), _length(stage)))
        for stage, (tokens, _), there in zip(stages, budgets, up, strict=True)
        if there
    ]
    return BatchingPlan(
        _workers(runs, stages),
        tuple(tokens for tokens, _ in budgets),
        tuple(seconds for _, seconds in budgets),
        tuple(there and _shapes_are_dear(stage) for stage, there in zip(stages, up, strict=True)),
        tuple(
            find_length_buckets(stage) if there else LengthBuckets()
            for stage, there in zip(stages, up, strict=True)
        ),
    )


def warm_up(stage: Stage, plan: BatchingPlan, number: int) -> None:
    """Run every shape of batch once on every stream, where the engine prepares itself for each shape.

    Args:
        stage: the stage.
        plan: that says which shapes there are.
        number: of the stage, counted from 0.
    """
    if not plan.dear[number]:
        return
    own = padded_length(np.arange(1, stage.tokenizer.max_length + 1)).tolist()
    lengths = sorted({plan.lengths[number].waits_at(one) for one in own})
    streams, until = stage.engine.streams, now() + SHAPE_SECONDS
    with ThreadPoolExecutor(streams) as threads:
        for count, length in product(SIZES, lengths):
            if count <= plan.most(number, length) and now() < until:
                _together(threads, streams, partial(stage.run, _batch(stage, count, length)))


def probe(stage: Stage) -> TokenBatch:
    """A batch of one short row, to see whether a stage answers."""
    return _batch(stage, 1, 2)


def _length(stage: Stage) -> int:
    return min(LENGTH, stage.tokenizer.max_length)


def _batch(stage: Stage, count: int, length: int) -> TokenBatch:
    """Rows of equal tokens: which ones they are does not change the time."""
    starts = np.arange(count + 1, dtype=np.int64) * length
    ids = np.ones(count * length, np.int32)
    return TokenizedTexts(ids, np.zeros(len(ids), np.int8), starts, stage.tokenizer.pad_id).batch(
        np.arange(count)
    )


def _seconds(run: Callable[[], object]) -> float:
    """The best of some, after a warm-up."""
    (taken,) = interleaved([run], repeats=REPEATS)
    return min(taken)


def _budget(stage: Stage, *, most_seconds: float) -> tuple[int, float]:
    """The largest budget that is about as fast by the token as the best, and the seconds of a token there.

    A batch is only as large as there are rows waiting, so a large budget keeps nobody waiting.
    """
    length, count, each = _length(stage), 1, dict[int, float]()
    while count == 1 or (count <= SIZES[-1] and count * length <= stage.batch_tokens):
        seconds = _seconds(partial(stage.run, _batch(stage, count, length)))
        if each and seconds > most_seconds:
            break
        each[count] = seconds / (count * length)
        count *= 2
    best = max(count for count, seconds in each.items() if seconds <= AS_FAST * min(each.values()))
    return best * length, each[best]


def _workers(runs: Sequence[Callable[[], object]], stages: Sequence[Stage]) -> int:
    """The last number of threads, going up, that ran a tenth more batches a second."""
    most = max(cores(), *(stage.engine.streams for stage in stages))
    counts = sorted({*(1 << i for i in range(most.bit_length())), most})
    with ThreadPoolExecutor(most) as threads:
        trials = [partial(_together, threads, count, partial(_rounds, runs)) for count in counts]
        seconds = [min(taken) for taken in interleaved(trials, repeats=REPEATS)]
    chosen, best = 1, 0.0
    for count, taken in zip(counts, seconds, strict=True):
        if count / taken < WORTH_THREAD * best:
            break
        chosen, best = count, count / taken
    return chosen


def _rounds(runs: Sequence[Callable[[], object]]) -> None:
    """Some rounds of one batch of each stage."""
    for _ in range(ROUNDS):
        for run in runs:
            run()


def _together(pool: ThreadPoolExecutor, threads: int, run: Callable[[], object]) -> None:
    """Run the same on each thread at the same time."""
    barrier = Barrier(threads)

    def one() -> None:
        barrier.wait()
        run()

    for done in [pool.submit(one) for _ in range(threads)]:
        done.result()


def _shapes_are_dear(stage: Stage) -> bool:
    """Whether a batch of a new shape costs a good deal more the first time than the next."""
    more = []
    for count in (3, 5, 7, 9, 11):
        run = partial(stage.run, _batch(stage, count, stage.tokenizer.max_length))
        start = now()
        run()
        first = now() - start
        more.append(first - _seconds(run))
    return sorted(more)[len(more) // 2] > DEAR_SHAPE
