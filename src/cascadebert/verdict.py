"""Whether a cascade is worth it on rows that had no say in making it. Pure: arrays in, a value out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cascadebert.confidence import max_probability, softmax
from cascadebert.errors import CascadeError
from cascadebert.metrics import DRAWS, Difference, paired_difference
from cascadebert.reliability import bin_numbers
from cascadebert.thresholds import exit_stages, speedup
from cascadebert.trust import Trust, trust_in_cascade
from cascadebert.types import Bools, Floats, Ints, Logits

NOTICEABLE = 0.005
FEW_ROWS = 100
LENGTH_BUCKETS = 4
TENTHS = 10
Word = Literal["cascade", "do not cascade", "cannot tell"]


@dataclass(frozen=True)
class Clock:
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
class Evidence:
    """What a verdict is reached on.

    Attributes:
        logits: (num_stages, n, num_labels) of every stage on every row, before scaling.
        temperatures: (num_stages,).
        thresholds: (num_stages - 1,).
        labels: (n,) label ids.
        label_names: by id.
        lengths: (n,) tokens at the last stage.
        seconds: (num_stages, n) that each stage adds to a row that reaches it, as expected from timed rows.
        alone: expected seconds of a row at the last stage alone.
        clock: measured on some or all of the rows.
        rival: name and (n,) label ids of something else that answers the same rows.
        allowed_drop: accuracy that the cascade was allowed to lose against its last stage, if it was told.
    """

    logits: Logits
    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    labels: Ints
    label_names: tuple[str, ...]
    lengths: Ints
    seconds: Floats
    alone: float
    clock: Clock
    rival: tuple[str, Ints] | None = None
    allowed_drop: float | None = None


@dataclass(frozen=True)
class Contender:
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
    gain: Difference
    seconds: float
    measured_speedup: float
    range: tuple[float, float]


@dataclass(frozen=True)
class Coin:
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
    gain: Difference


@dataclass(frozen=True)
class Group:
    """Some of the rows, and what they bear.

    Attributes:
        kind: "class" (the row's label), "length" (tokens at the last stage) or "stage" (that answers).
        name: of the group.
        rows: number of rows.
        accuracy: of the cascade.
        last_accuracy: of the last stage alone.
        gain: the one less the other.
        lost: rows that the last stage answers rightly and the cascade does not.
        won: the other way round.
        share: of all rows.
        share_of_lost: of all lost rows; None where none is.
    """

    kind: Literal["class", "length", "stage"]
    name: str
    rows: int
    accuracy: float
    last_accuracy: float
    gain: Difference
    lost: int
    won: int
    share: float
    share_of_lost: float | None


@dataclass(frozen=True)
class Oracle:
    """The same stages if each row left at the first one that answers as the last does.

    Attributes:
        accuracy: its own, which is the last stage's.
        expected_speedup: of it over the last stage alone, from seconds per row and token.
        exit_rates: (num_stages,) share of rows answered at each stage.
        cascade_expected_speedup: of the cascade, counted likewise.
        needless: share of rows that the cascade answers later than the oracle does.
        hasty: share of rows that it answers otherwise than the last stage.
        best_of_stages: share of rows that any stage answers rightly: no routing does better.
    """

    accuracy: float
    expected_speedup: float
    exit_rates: tuple[float, ...]
    cascade_expected_speedup: float
    needless: float
    hasty: float
    best_of_stages: float


@dataclass(frozen=True)
class Mistakes:
    """Where the confidence rule fails: rows that left early with a wrong answer that the last stage has right.

    Attributes:
        early: rows answered before the last stage.
        lost: those among them whose right answer was lost.
        won: those among them whose wrong answer was mended.
        confidences: least, quartiles and greatest confidence of the lost ones; empty where there is none.
        above_median: share of the lost ones that are surer than the median of all early rows: 0 where
            confidence tells them apart, 0.5 where it knows nothing; None where there is none.
        tenths: (rows, lost) of the early rows in tenths by confidence, from the least sure.
    """

    early: int
    lost: int
    won: int
    confidences: tuple[float, ...]
    above_median: float | None
    tenths: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Verdict:
    """Whether to cascade here, and all that was looked at.

    Attributes:
        word: the answer.
        reasons: why, one sentence each.
        n: number of rows.
        timed_rows: number of rows in each timed run.
        repeats: number of timed runs.
        accuracy: of the cascade.
        seconds: of a row, median over the runs.
        exit_rates: (num_stages,) share of rows answered at each stage.
        last_stage: the last stage alone.
        others: each earlier stage alone, then the rival, if there is one.
        coin: the best of them; None where no two stages alone lie on both sides of the cascade's time.
        both_wrong: share of rows that neither the cascade nor the last stage answers rightly.
        groups: by class, by length and by stage.
        oracle: the best that confidence could have done.
        mistakes: where confidence failed.
        trust: calibration of each stage, then of the cascade.
    """

    word: Word
    reasons: tuple[str, ...]
    n: int
    timed_rows: int
    repeats: int
    accuracy: float
    seconds: float
    exit_rates: tuple[float, ...]
    last_stage: Contender
    others: tuple[Contender, ...]
    coin: Coin | None
    both_wrong: float
    groups: tuple[Group, ...]
    oracle: Oracle
    mistakes: Mistakes
    trust: tuple[Trust, ...]


def reach(evidence: Evidence) -> Verdict:
    """Weigh the evidence; the rule is `judge`.

    Raises:
        CascadeError: if there is no row.
    """
    labels, n = evidence.labels, len(evidence.labels)
    if not n:
        raise CascadeError("a verdict needs labelled rows; none was given")
    scaled = np.asarray(evidence.logits, dtype=np.float64) / np.array(evidence.temperatures)[:, None, None]
    sure, answers = max_probability(softmax(scaled)), scaled.argmax(axis=2)
    exits = exit_stages(sure, evidence.thresholds)
    right = answers == labels
    ours, last = right[exits, np.arange(n)], right[-1]
    *others, last_stage = _contenders(evidence, ours, right)
    if evidence.rival is not None and evidence.clock.rival is not None:
        name, said = evidence.rival
        others.append(_contender(name, ours, said == labels, evidence.clock, evidence.clock.rival))
    rates = tuple((np.bincount(exits, minlength=len(answers)) / n).tolist())
    coin = _coin(ours, right, evidence.clock)
    word, reasons = judge(n, rates, last_stage, others, coin, evidence.allowed_drop)
    return Verdict(
        word=word,
        reasons=reasons,
        n=n,
        timed_rows=evidence.clock.n,
        repeats=len(evidence.clock.cascade),
        accuracy=float(ours.mean()),
        seconds=float(np.median(evidence.clock.cascade)) / evidence.clock.n,
        exit_rates=rates,
        last_stage=last_stage,
        others=tuple(others),
        coin=coin,
        both_wrong=float((~ours & ~last).mean()),
        groups=_groups(evidence, exits, ours, last),
        oracle=_oracle(evidence, exits, answers, right),
        mistakes=_mistakes(exits < len(answers) - 1, sure[exits, np.arange(n)], ours, last),
        trust=trust_in_cascade(evidence.logits, evidence.temperatures, evidence.thresholds, labels),
    )


def judge(
    n: int,
    exit_rates: Sequence[float],
    last: Contender,
    others: Sequence[Contender],
    coin: Coin | None,
    allowed_drop: float | None = None,
) -> tuple[Word, tuple[str, ...]]:
    """The answer and its reasons.

    *Do not cascade* if one stage answers every row; if in no run the cascade was faster than its last stage
    alone; if something else was at least as fast in every run and is at least as accurate on these rows, or
    surely (95 %) less than half a point behind; if a coin does as well in the same time; or if surely more is
    lost than the cascade was allowed to lose. Otherwise *cannot tell* if one of these could still be so, or there
    are fewer than 100 rows. Otherwise *cascade*.

    Args:
        n: number of rows.
        exit_rates: (num_stages,).
        last: the last stage alone.
        others: other ways to answer.
        coin: two of the stages mixed by chance.
        allowed_drop: accuracy that may be lost against the last stage.
    """
    against, unsure = _on_speed(exit_rates, last)
    for one in others:
        if one.range[1] <= 1:
            nothing = one.gain.value <= 0 or one.gain.high < NOTICEABLE
            (against if nothing else unsure if one.gain.low <= 0 else []).append(
                f"{one.name} is as fast, and the cascade's accuracy differs by {points(one.gain)}."
            )
        elif one.range[0] <= 1 and one.gain.low <= 0:
            unsure.append(f"{one.name} is about as fast, and no less accurate for sure: {points(one.gain)}.")
    if coin is not None and coin.gain.low <= 0:
        (against if coin.gain.value <= 0 else unsure).append(
            f"choosing between {coin.fast} and {coin.slow} by chance is as fast, and the cascade's accuracy "
            f"differs by {points(coin.gain)}: its confidence says too little."
        )
    if allowed_drop is not None and last.gain.value < -allowed_drop:
        (against if last.gain.high < -allowed_drop else unsure).append(
            f"it was allowed to lose {100 * allowed_drop:g} points against its last stage: {points(last.gain)}."
        )
    if n < FEW_ROWS:
        unsure.append(f"{n} rows are too few; give {FEW_ROWS} or more.")
    if against:
        return "do not cascade", tuple(against)
    if unsure:
        return "cannot tell", tuple(unsure)
    return "cascade", (f"it is {faster(last)} as fast as its last stage alone, at {points(last.gain)}.",)


def points(gain: Difference) -> str:
    """A difference of accuracies in words, with its interval.

    >>> points(Difference(-0.003, -0.013, 0.005))
    '-0.3 points (-1.3 to +0.5)'
    """
    return f"{100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def faster(one: Contender) -> str:
    """How many times faster than it the cascade is, with the range of the runs."""
    return f"{one.measured_speedup:.2f}x ({one.range[0]:.2f} to {one.range[1]:.2f})"


def _on_speed(exit_rates: Sequence[float], last: Contender) -> tuple[list[str], list[str]]:
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


def _contenders(evidence: Evidence, ours: Bools, right: Bools) -> list[Contender]:
    clock = evidence.clock
    return [
        _contender(f"stage {i} alone", ours, one, clock, taken)
        for i, (one, taken) in enumerate(zip(right, clock.stages, strict=True), start=1)
    ]


def _contender(name: str, ours: Bools, right: Bools, clock: Clock, taken: Floats) -> Contender:
    ratios = taken / clock.cascade
    return Contender(
        name=name,
        accuracy=float(right.mean()),
        gain=paired_difference(ours, right),
        seconds=float(np.median(taken)) / clock.n,
        measured_speedup=float(np.median(ratios)),
        range=(float(ratios.min()), float(ratios.max())),
    )


def _coin(ours: Bools, right: Bools, clock: Clock) -> Coin | None:
    """The most accurate mix of two stages alone that takes the cascade's time."""
    limit, taken = float(np.median(clock.cascade)), np.median(clock.stages, axis=1)
    found = []
    for fast in np.flatnonzero(taken <= limit):
        for slow in np.flatnonzero(taken > limit):
            share = (taken[slow] - limit) / (taken[slow] - taken[fast])
            found.append((share * right[fast].mean() + (1 - share) * right[slow].mean(), share, fast, slow))
    if not found:
        return None
    accuracy, share, fast, slow = max(found)
    gain = _mean(ours - share * right[fast] - (1 - share) * right[slow])
    names = f"stage {fast + 1} alone", f"stage {slow + 1} alone"
    return Coin(*names, float(share), float(accuracy), gain)


def _mean(values: Floats) -> Difference:
    """Mean of values of few kinds, with the percentile bootstrap over rows as in `paired_difference`."""
    kinds, counts = np.unique(np.round(values, 12), return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(values), counts / len(values), size=DRAWS) @ kinds
    low, high = np.quantile(drawn / len(values), [0.025, 0.975])
    return Difference(float(values.mean()), float(low), float(high))


def _groups(evidence: Evidence, exits: Ints, ours: Bools, last: Bools) -> tuple[Group, ...]:
    edges = np.unique(
        np.quantile(evidence.lengths, np.arange(1, LENGTH_BUCKETS) / LENGTH_BUCKETS).astype(int)
    )
    bucket = np.searchsorted(edges, evidence.lengths, side="left")
    lows = ["", *(f"{edge + 1} to " for edge in edges[:-1])]
    lengths = [f"{low or 'up to '}{edge} tokens" for low, edge in zip(lows, edges, strict=True)]
    names = {
        "class": (evidence.labels, evidence.label_names),
        "length": (bucket, [*lengths, f"{edges[-1] + 1} tokens or more"]),
        "stage": (exits, [f"answered by stage {i + 1}" for i in range(len(evidence.temperatures))]),
    }
    lost, total = last & ~ours, int((last & ~ours).sum())
    return tuple(
        Group(
            kind=kind,  # type: ignore[arg-type]
            name=name,
            rows=int(here.sum()),
            accuracy=float(ours[here].mean()),
            last_accuracy=float(last[here].mean()),
            gain=paired_difference(ours[here], last[here]),
            lost=int(lost[here].sum()),
            won=int((ours & ~last)[here].sum()),
            share=float(here.mean()),
            share_of_lost=int(lost[here].sum()) / total if total else None,
        )
        for kind, (which, called) in names.items()
        for i, name in enumerate(called)
        if (here := which == i).any()
    )


def _oracle(evidence: Evidence, exits: Ints, answers: Ints, right: Bools) -> Oracle:
    first = np.argmax(answers == answers[-1], axis=0)
    said = answers[exits, np.arange(len(exits))]
    return Oracle(
        accuracy=float(right[-1].mean()),
        expected_speedup=speedup(first, evidence.seconds, evidence.alone),
        exit_rates=tuple((np.bincount(first, minlength=len(answers)) / len(first)).tolist()),
        cascade_expected_speedup=speedup(exits, evidence.seconds, evidence.alone),
        needless=float((exits > first).mean()),
        hasty=float((said != answers[-1]).mean()),
        best_of_stages=float(right.any(axis=0).mean()),
    )


def _mistakes(early: Bools, sure: Floats, ours: Bools, last: Bools) -> Mistakes:
    lost, score = early & last & ~ours, sure[early]
    tenths: list[tuple[int, int]] = []
    if early.any():
        which = bin_numbers(score, TENTHS, "mass")
        rows, bad = np.bincount(which), np.bincount(which, weights=lost[early])
        tenths = [(int(one), int(other)) for one, other in zip(rows, bad, strict=True) if one]
    return Mistakes(
        early=int(early.sum()),
        lost=int(lost.sum()),
        won=int((early & ours & ~last).sum()),
        confidences=tuple(np.quantile(sure[lost], [0, 0.25, 0.5, 0.75, 1]).tolist()) if lost.any() else (),
        above_median=float((sure[lost] > np.median(score)).mean()) if lost.any() else None,
        tenths=tuple(tenths),
    )
