"""The only clock of the package."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


def now() -> float:
    """Seconds on a clock that never runs backwards; only differences mean something."""
    return time.perf_counter()


def interleaved(runs: Sequence[Callable[[], object]], *, repeats: int) -> list[list[float]]:
    """Seconds of each run, all of them timed in turn, `repeats` times, after one warm-up each.

    Timing A B A B ... keeps a change of the machine's speed from falling on one of them alone.

    Args:
        runs: what to time.
        repeats: how often.

    Returns:
        For each run its `repeats` seconds, in order.

    >>> [len(seconds) for seconds in interleaved([lambda: 1, lambda: 2], repeats=3)]
    [3, 3]
    """
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for taken, run in zip(seconds, runs, strict=True):
            start = now()
            run()
            taken.append(now() - start)
    return seconds
