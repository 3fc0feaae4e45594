"""The only clock of the package."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


def now() -> float:
    """Seconds of a monotonic clock; only differences are meaningful."""
    return time.perf_counter()


def interleaved(runs: Sequence[Callable[[], object]], *, repeats: int) -> list[list[float]]:
    """Seconds of `repeats` calls of each run, in turn (A B A B ...) after one warm-up call each.

    In turn, a change of the machine's speed affects all runs.

    >>> [len(seconds) for seconds in interleaved([lambda: 1, lambda: 2], repeats=3)]
    [3, 3]
    """
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run_seconds, run in zip(seconds, runs, strict=True):
            start = now()
            run()
            run_seconds.append(now() - start)
    return seconds
