"""A cascade against other ways to answer the same rows, and who wins. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cascadebert.evaluation.metrics import paired_difference
from cascadebert.thresholds.intervals import bootstrap_mean
from cascadebert.types import Bools, Floats, Interval

NOTICEABLE = 0.005
FEW_ROWS = 100
Decision = Literal["cascade", "do not cascade", "cannot tell"]


@dataclass(frozen=True)
class WallClock:
    """Seconds of whole runs over the same rows, taken in turn; run i of each belongs together.

    Attributes:
        n: number of rows in each run.
        cascade: (repeats,) seconds.
        stages: (num_stages, repeats), each stage alone.
        rival: (repeats,), if there is one.
    """

    n: int
    cascade: Floats
    stages: Floats
    rival: Floats | None = None


@dataclass(frozen=True)
class Alternative:
    """Another way to answer the same rows.

    Attributes:
        name: of it.
        accuracy: its own.
        gain: accuracy of the cascade less its own, on the same rows.
        seconds: of a row, median over the runs.
        measured_speedup: its seconds over the cascade's, median over the runs; above 1 the cascade is faster.
        range: lowest and highest of these ratios.
    """

    name: str
    accuracy: float
    gain: Interval
    seconds: float
    measured_speedup: float
    range: tuple[float, float]


@dataclass(frozen=True)
class RandomRouting:
    """Two stages alone, one of them drawn for each row, such that the mean time is the cascade's.

    A confidence that does not beat it is not worth looking at.

    Attributes:
        fast: name of the faster one.
        slow: name of the slower one.
        share: of the rows that the faster one answers.
        accuracy: expected.
        gain: accuracy of the cascade less that.
    """

    fast: str
    slow: str
    share: float
    accuracy: float
    gain: Interval


def compare_alternative(
    name: str, ours: Bools, right: Bools, clock: WallClock, seconds: Floats
) -> Alternative:
    """Another way to answer, beside the cascade.

    Args:
        name: of it.
        ours: (n,) whether the cascade is right.
        right: (n,) whether it is.
        clock: of the cascade.
        seconds: (repeats,) of it, on the clock's rows.
    """
    ratios = seconds / clock.cascade
    return Alternative(
        name=name,
        accuracy=float(right.mean()),
        gain=paired_difference(ours, right),
        seconds=float(np.median(seconds)) / clock.n,
        measured_speedup=float(np.median(ratios)),
        range=(float(ratios.min()), float(ratios.max())),
    )


def random_routing_baseline(ours: Bools, right: Bools, clock: WallClock) -> RandomRouting | None:
    """The most accurate mix by chance of two stages alone that takes the cascade's time.

    Args:
        ours: (n,) whether the cascade is right.
        right: (num_stages, n) whether each stage alone is.
        clock: of all of them.
    """
    limit, taken = float(np.median(clock.cascade)), np.median(clock.stages, axis=1)
    found = []
    for fast in np.flatnonzero(taken <= limit).tolist():
        for slow in np.flatnonzero(taken > limit).tolist():
            share = float((taken[slow] - limit) / (taken[slow] - taken[fast]))
            found.append((share * right[fast].mean() + (1 - share) * right[slow].mean(), share, fast, slow))
    if not found:
        return None
    accuracy, share, fast, slow = max(found)
    gain = _mean(ours - share * right[fast] - (1 - share) * right[slow])
    return RandomRouting(f"stage {fast + 1} alone", f"stage {slow + 1} alone", share, float(accuracy), gain)


def _mean(values: Floats) -> Interval:
    """Mean of values of few kinds, with the percentile bootstrap over rows as in `paired_difference`."""
    kinds, counts = np.unique(np.round(values, 12), return_counts=True)
    return bootstrap_mean(kinds, counts)


def decide(
    n: int,
    exit_rates: Sequence[float],
    last: Alternative,
    others: Sequence[Alternative],
    coin: RandomRouting | None,
    allowed_drop: float | None = None,
) -> tuple[Decision, tuple[str, ...]]:
    """The answer and its reasons.

    *Do not cascade* if one stage answers every row; if in no run the cascade was faster than its last stage
    alone; if something else was at least as fast in every run and is at least as accurate on these rows, or
    surely (95 %) less than half a point behind; if a coin does as well in the same time; or if surely more is
    lost than the cascade was allowed to lose. Otherwise *cannot tell* if one of these could still be so, or
    there are fewer than 100 rows (of which only one stage and the clock count against it). Otherwise
    *cascade*.

    Args:
        n: number of rows.
        exit_rates: (num_stages,).
        last: the last stage alone.
        others: other ways to answer.
        coin: two of the stages mixed by chance.
        allowed_drop: accuracy that may be lost against the last stage.
    """
    against, unsure = _on_speed(exit_rates, last)
    poorly = unsure if n < FEW_ROWS else against  # of so few rows only the clock tells something
    for one in others:
        nothing = one.gain.value <= 0 or one.gain.high < NOTICEABLE
        if one.range[1] <= 1 and (nothing or one.gain.low <= 0):
            said = f"{one.name} is no slower; the cascade's accuracy beside it: {points(one.gain)}."
            (poorly if nothing else unsure).append(said)
        elif one.range[0] <= 1 < one.range[1] and one.gain.low <= 0:
            unsure.append(f"{one.name} is about as fast; the cascade beside it: {points(one.gain)}.")
    if coin is not None and coin.gain.low <= 0:
        (poorly if coin.gain.value <= 0 else unsure).append(
            f"drawing {coin.fast} or {coin.slow} by chance takes as long; the cascade's accuracy beside it: "
            f"{points(coin.gain)}, so its confidence says too little."
        )
    beyond = allowed_drop is not None and last.gain.value < -allowed_drop
    more = f"it loses more than the {100 * (allowed_drop or 0):g} points that its thresholds were picked for"
    if beyond and last.gain.high < -(allowed_drop or 0):
        poorly.append(f"{more}: {points(last.gain)}. Pick them again on rows like these.")
    if n < FEW_ROWS:
        unsure.append(f"{n} rows are too few; give {FEW_ROWS} or more.")
    if against:
        return "do not cascade", tuple(against)
    if unsure:
        return "cannot tell", tuple(unsure)
    won = f"it is {faster(last)} as fast as its last stage alone, at {points(last.gain)}."
    return "cascade", (won, f"{more}, which may be chance.") if beyond else (won,)


def points(gain: Interval) -> str:
    """A difference of accuracies in words, with its interval.

    >>> points(Interval(-0.003, -0.013, 0.005))
    '-0.3 points (-1.3 to +0.5)'
    """
    return f"{100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def faster(one: Alternative) -> str:
    """How many times faster than it the cascade is, with the range of the runs."""
    return f"{one.measured_speedup:.2f}x ({one.range[0]:.2f} to {one.range[1]:.2f})"


def _on_speed(exit_rates: Sequence[float], last: Alternative) -> tuple[list[str], list[str]]:
    if max(exit_rates) == 1:
        only = f"stage {int(np.argmax(exit_rates)) + 1}"
        return [f"{only} answers every row: use it alone."], []
    if last.range[1] <= 1:
        return [f"it is not faster than its last stage alone: {faster(last)}."], []
    if last.range[0] <= 1:
        return [], [
            f"whether it is faster than its last stage alone differs from run to run: {faster(last)}."
        ]
    return [], []
