"""Autotuning: batch sizes, length buckets and the number of threads, measured briefly at the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from statistics import median
from threading import Barrier

import numpy as np

from cascadebert.environment import cores
from cascadebert.inference.engines.base import TokenBatch
from cascadebert.inference.stage import Stage
from cascadebert.inference.trial import trial_texts
from cascadebert.server.scheduling.length_buckets import LengthBuckets, find_length_buckets
from cascadebert.timing import interleaved, now

TRIAL_LENGTH = 32
BATCH_FRACTION = 0.125  # longest batch, in latency targets
MAX_SLOWDOWN, MIN_THREAD_GAIN = 1.15, 1.1
ROUNDS, REPEATS = 3, 3
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Batch sizes where an engine compiles for each shape: few, so that all are compiled at the start."""
MIN_FILL = 0.8
COMPILE_SECONDS = 1e-3
WARM_UP_SECONDS = 60.0


@dataclass(frozen=True)
class StagePlan:
    """Batching of one stage."""

    tokens: int = 1  # budget of a batch, in padded tokens
    seconds: float = 0.0  # per token in such a batch
    compiles_per_shape: bool = False  # the first batch of each shape takes much longer
    buckets: LengthBuckets = field(default_factory=LengthBuckets)

    def max_rows(self, length: int) -> int:
        """Maximum number of texts of a padded length in a batch."""
        rows = max(1, self.tokens // length)
        return max(size for size in SIZES if size <= rows) if self.compiles_per_shape else rows

    def batch_size(self, rows: int) -> tuple[int, int]:
        """The number of `rows` (at most `max_rows`) to run together, and the size of their batch.

        Where shapes are compiled, a size that is nearly full is filled up, else some texts are left waiting.

        >>> plan = StagePlan(tokens=512, compiles_per_shape=True)
        >>> [plan.batch_size(rows) for rows in (3, 5, 9)]
        [(3, 3), (5, 6), (8, 8)]
        """
        if not self.compiles_per_shape:
            return rows, rows
        above = min(size for size in SIZES if size >= rows)
        if rows >= MIN_FILL * above:
            return rows, above
        below = max(size for size in SIZES if size <= rows)
        return below, below


@dataclass(frozen=True)
class BatchingPlan:
    """Batching of all stages; they share the worker threads."""

    workers: int
    stages: tuple[StagePlan, ...]


def autotune(stages: Sequence[Stage], available: Sequence[bool], *, latency_target: float) -> BatchingPlan:
    """Measure budgets and the number of threads; takes a second or less where stages are quick.

    A batch takes at most an eighth of `latency_target` (seconds), where one text does not take more, so that
    batches of a large stage do not keep texts of a small one waiting. Unavailable stages are not run.
    """
    plans, runs = [], list[Callable[[], object]]()
    for stage, up in zip(stages, available, strict=True):
        plan = StagePlan(stage.batch_tokens)
        if up:
            plan = _plan_stage(stage, max_seconds=BATCH_FRACTION * latency_target)
            length = _trial_length(stage)
            runs.append(partial(stage.run, _trial_batch(stage, plan.tokens // length, length)))
        plans.append(plan)
    max_workers = max(cores(), *(stage.engine.streams for stage in stages))
    return BatchingPlan(_num_workers(runs, max_workers), tuple(plans))


def warm_up(stage: Stage, plan: StagePlan) -> None:
    """Run every shape of batch once on every stream, where the engine compiles for each shape."""
    if not plan.compiles_per_shape:
        return
    padded = stage.tokenizer.padding.length(np.arange(1, stage.tokenizer.max_length + 1)).tolist()
    lengths = sorted({plan.buckets.bucket_for(length) for length in padded})
    streams, end = stage.engine.streams, now() + WARM_UP_SECONDS
    with ThreadPoolExecutor(streams) as executor:
        for rows, length in product(SIZES, lengths):
            if rows <= plan.max_rows(length) and now() < end:
                _run_concurrently(executor, streams, partial(stage.run, _trial_batch(stage, rows, length)))


def probe_batch(stage: Stage) -> TokenBatch:
    """A batch of one short text, to test whether a stage responds."""
    return _trial_batch(stage, 1, 2)


def _trial_length(stage: Stage) -> int:
    return min(TRIAL_LENGTH, stage.tokenizer.max_length)


def _trial_batch(stage: Stage, rows: int, length: int) -> TokenBatch:
    return trial_texts(stage.tokenizer, rows, length).batch(np.arange(rows), length=length)


def _best_seconds(run: Callable[[], object]) -> float:
    return min(interleaved([run], repeats=REPEATS)[0])


def _plan_stage(stage: Stage, *, max_seconds: float) -> StagePlan:
    """The plan with the largest budget that is about as fast per token as the fastest one.

    A batch is only as large as there are texts waiting, so a large budget keeps nobody waiting.
    """
    length, rows, per_token = _trial_length(stage), 1, dict[int, float]()
    while rows == 1 or (rows <= SIZES[-1] and rows * length <= stage.batch_tokens):
        seconds = _best_seconds(partial(stage.run, _trial_batch(stage, rows, length)))
        if per_token and seconds > max_seconds:
            break
        per_token[rows] = seconds / (rows * length)
        rows *= 2
    fast = MAX_SLOWDOWN * min(per_token.values())
    best = max(rows for rows, seconds in per_token.items() if seconds <= fast)
    return StagePlan(best * length, per_token[best], _compiles_per_shape(stage), find_length_buckets(stage))


def _num_workers(runs: list[Callable[[], object]], max_workers: int) -> int:
    """The last number of threads, going up, that gave a tenth more batches per second."""

    def run_rounds() -> None:
        for run in runs * ROUNDS:
            run()

    counts = sorted({*(1 << i for i in range(max_workers.bit_length())), max_workers})
    with ThreadPoolExecutor(max_workers) as executor:
        trials = [partial(_run_concurrently, executor, count, run_rounds) for count in counts]
        seconds = [min(taken) for taken in interleaved(trials, repeats=REPEATS)]
    chosen, best = 1, 0.0
    for count, taken in zip(counts, seconds, strict=True):
        if count / taken < MIN_THREAD_GAIN * best:
            break
        chosen, best = count, count / taken
    return chosen


def _run_concurrently(executor: ThreadPoolExecutor, threads: int, run: Callable[[], object]) -> None:
    """Run the same call on each of so many threads at the same time."""
    barrier = Barrier(threads)

    def start() -> None:
        barrier.wait()
        run()

    for future in [executor.submit(start) for _ in range(threads)]:
        future.result()


def _compiles_per_shape(stage: Stage) -> bool:
    """True if the first batch of a shape takes much longer than the next ones."""
    extra = []
    for rows in (3, 5, 7, 9, 11):
        run = partial(stage.run, _trial_batch(stage, rows, stage.tokenizer.max_length))
        start = now()
        run()
        first = now() - start
        extra.append(first - _best_seconds(run))
    return median(extra) > COMPILE_SECONDS
