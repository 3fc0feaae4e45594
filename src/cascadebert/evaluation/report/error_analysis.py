"""Who bears the errors of a cascade, and where its confidence fails. Pure: arrays in, values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cascadebert.evaluation.calibration_metrics import bin_indices
from cascadebert.evaluation.metrics import paired_difference
from cascadebert.thresholds.select import speedup
from cascadebert.types import Bools, Floats, Interval, Ints

LENGTH_BUCKETS = 4
TENTHS = 10
QUARTILES = (0, 0.25, 0.5, 0.75, 1)


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

    kind: str
    name: str
    rows: int
    accuracy: float
    last_accuracy: float
    gain: Interval
    lost: int
    won: int
    share: float
    share_of_lost: float | None


@dataclass(frozen=True)
class OracleRouting:
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
    over_deferred: float
    early_mistakes: float
    best_of_stages: float


@dataclass(frozen=True)
class HighConfidenceErrors:
    """Rows that left early with a wrong answer that the last stage has right: there confidence fails.

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
    deciles: tuple[tuple[int, int], ...]


def error_groups(
    kinds: Mapping[str, tuple[Ints, Sequence[str]]], ours: Bools, last: Bools
) -> tuple[Group, ...]:
    """What each group of rows bears; groups without a row are left out.

    Args:
        kinds: for each kind of group the (n,) number of each row's group, and what the groups are called.
        ours: (n,) whether the cascade is right.
        last: (n,) whether the last stage is.

    >>> both = np.array([True, False, False]), np.array([True, True, False])
    >>> [(one.name, one.lost) for one in error_groups({"class": (np.array([0, 1, 1]), ("a", "b"))}, *both)]
    [('a', 0), ('b', 1)]
    """
    lost, won = last & ~ours, ours & ~last
    total = int(lost.sum())
    return tuple(
        Group(
            kind=kind,
            name=name,
            rows=int(here.sum()),
            accuracy=float(ours[here].mean()),
            last_accuracy=float(last[here].mean()),
            gain=paired_difference(ours[here], last[here]),
            lost=int(lost[here].sum()),
            won=int(won[here].sum()),
            share=float(here.mean()),
            share_of_lost=int(lost[here].sum()) / total if total else None,
        )
        for kind, (which, names) in kinds.items()
        for i, name in enumerate(names)
        if (here := which == i).any()
    )


def length_buckets(lengths: Ints) -> tuple[Ints, tuple[str, ...]]:
    """(n,) each row's quarter by tokens, and what the quarters are called; equal lengths stay together.

    >>> length_buckets(np.array([3, 4, 8, 9]))[1]
    ('up to 3 tokens', '4 to 6 tokens', '7 to 8 tokens', '9 tokens or more')
    """
    cuts = np.quantile(lengths, np.arange(1, LENGTH_BUCKETS) / LENGTH_BUCKETS)
    edges = np.unique(cuts.astype(np.int64)).tolist()
    lows = ["up to ", *(f"{edge + 1} to " for edge in edges[:-1])]
    names = [f"{low}{edge} tokens" for low, edge in zip(lows, edges, strict=True)]
    return np.searchsorted(edges, lengths, side="left"), (*names, f"{edges[-1] + 1} tokens or more")


def oracle_routing(exits: Ints, answers: Ints, labels: Ints, seconds: Floats, alone: float) -> OracleRouting:
    """The same stages with a confidence that knows which answers the last stage would change.

    Args:
        exits: (n,) stage, counted from 0, at which the cascade answers.
        answers: (num_stages, n) label ids.
        labels: (n,) label ids.
        seconds: (num_stages, n) that each stage adds to a row that reaches it.
        alone: seconds of a row at the last stage alone.
    """
    right, n = answers == labels, len(labels)
    first = np.argmax(answers == answers[-1], axis=0)
    return OracleRouting(
        accuracy=float(right[-1].mean()),
        expected_speedup=speedup(first, seconds, alone),
        exit_rates=tuple((np.bincount(first, minlength=len(answers)) / n).tolist()),
        cascade_expected_speedup=speedup(exits, seconds, alone),
        over_deferred=float((exits > first).mean()),
        early_mistakes=float((answers[exits, np.arange(n)] != answers[-1]).mean()),
        best_of_stages=float(right.any(axis=0).mean()),
    )


def high_confidence_errors(
    early: Bools, confidences: Floats, ours: Bools, last: Bools
) -> HighConfidenceErrors:
    """Where the confidence rule fails.

    Args:
        early: (n,) whether a row is answered before the last stage.
        confidences: (n,) of the stage that answers it.
        ours: (n,) whether the cascade is right.
        last: (n,) whether the last stage is.
    """
    lost, sure = early & last & ~ours, confidences[early]
    which = bin_indices(sure, TENTHS, "mass") if early.any() else np.empty(0, dtype=np.int64)
    rows, bad = np.bincount(which), np.bincount(which, weights=lost[early])
    deciles = [(int(one), int(other)) for one, other in zip(rows, bad, strict=True) if one]
    return HighConfidenceErrors(
        early=int(early.sum()),
        lost=int(lost.sum()),
        won=int((early & ours & ~last).sum()),
        confidences=tuple(np.quantile(confidences[lost], QUARTILES).tolist()) if lost.any() else (),
        above_median=float((confidences[lost] > np.median(sure)).mean()) if lost.any() else None,
        deciles=tuple(deciles),
    )
