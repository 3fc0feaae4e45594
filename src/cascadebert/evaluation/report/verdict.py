"""Whether a cascade is worth it on rows that had no say in making it. Pure: arrays in, a value out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.evaluation.report.calibration_analysis import (
    CalibrationAnalysis,
    analyze_cascade_calibration,
)
from cascadebert.evaluation.report.comparison import (
    Alternative,
    Decision,
    RandomRouting,
    WallClock,
    compare_alternative,
    decide,
    faster,
    points,
    random_routing_baseline,
)
from cascadebert.evaluation.report.error_analysis import (
    Group,
    HighConfidenceErrors,
    OracleRouting,
    error_groups,
    high_confidence_errors,
    length_buckets,
    oracle_routing,
)
from cascadebert.thresholds.confidence import Score, softmax
from cascadebert.thresholds.select import exit_stages
from cascadebert.thresholds.temperature import scale_logits
from cascadebert.types import Floats, Ints, Logits


@dataclass(frozen=True)
class ReportInputs:
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
        score: what is compared with the thresholds.
    """

    logits: Logits
    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    labels: Ints
    label_names: tuple[str, ...]
    lengths: Ints
    seconds: Floats
    alone: float
    clock: WallClock
    rival: tuple[str, Ints] | None = None
    allowed_drop: float | None = None
    score: Score = field(default_factory=Score)


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

    word: Decision
    reasons: tuple[str, ...]
    n: int
    timed_rows: int
    repeats: int
    accuracy: float
    seconds: float
    exit_rates: tuple[float, ...]
    last_stage: Alternative
    others: tuple[Alternative, ...]
    coin: RandomRouting | None
    both_wrong: float
    groups: tuple[Group, ...]
    oracle: OracleRouting
    mistakes: HighConfidenceErrors
    trust: tuple[CalibrationAnalysis, ...]


def reach_verdict(evidence: ReportInputs) -> Verdict:
    """Weigh the evidence; the rule is `decide`.

    Raises:
        CascadeError: if there is no row.
    """
    labels, n = evidence.labels, len(evidence.labels)
    if not n:
        raise CascadeError("a verdict needs labelled rows; none was given")
    scaled = np.stack(
        [scale_logits(one, t) for one, t in zip(evidence.logits, evidence.temperatures, strict=True)]
    )
    sure, answers = evidence.score.all_stages(softmax(scaled)), scaled.argmax(axis=2)
    exits = exit_stages(sure, evidence.thresholds)
    right = answers == labels
    ours, last = right[exits, np.arange(n)], right[-1]
    clock, rows = evidence.clock, np.arange(n)
    *others, last_stage = [
        compare_alternative(f"stage {i} alone", ours, one, clock, taken)
        for i, (one, taken) in enumerate(zip(right, clock.stages, strict=True), start=1)
    ]
    if evidence.rival is not None and clock.rival is not None:
        name, said = evidence.rival
        others.append(compare_alternative(name, ours, said == labels, clock, clock.rival))
    rates = tuple((np.bincount(exits, minlength=len(answers)) / n).tolist())
    coin = random_routing_baseline(ours, right, clock)
    word, reasons = decide(n, rates, last_stage, others, coin, evidence.allowed_drop)
    return Verdict(
        word=word,
        reasons=reasons,
        n=n,
        timed_rows=clock.n,
        repeats=len(clock.cascade),
        accuracy=float(ours.mean()),
        seconds=float(np.median(clock.cascade)) / clock.n,
        exit_rates=rates,
        last_stage=last_stage,
        others=tuple(others),
        coin=coin,
        both_wrong=float((~ours & ~last).mean()),
        groups=error_groups(_kinds(evidence, exits), ours, last),
        oracle=oracle_routing(exits, answers, labels, evidence.seconds, evidence.alone),
        mistakes=high_confidence_errors(exits < len(answers) - 1, sure[exits, rows], ours, last),
        trust=analyze_cascade_calibration(evidence.logits, evidence.temperatures, exits, labels),
    )


def _kinds(evidence: ReportInputs, exits: Ints) -> dict[str, tuple[Ints, Sequence[str]]]:
    stages = [f"answered by stage {i}" for i in range(1, len(evidence.temperatures) + 1)]
    return {
        "class": (evidence.labels, evidence.label_names),
        "length": length_buckets(evidence.lengths),
        "stage": (exits, stages),
    }


def summary(verdict: Verdict) -> tuple[str, ...]:
    """The verdict in plain sentences, the answer first."""
    last, coin = verdict.last_stage, verdict.coin
    said = [
        f"Verdict: {verdict.word}. {' '.join(one[0].upper() + one[1:] for one in verdict.reasons)}",
        f"Accuracy {percent(verdict.accuracy)} on {verdict.n:,} rows that had no say in making it; its last "
        f"stage alone {percent(last.accuracy)}: {points(last.gain)}, measured speed-up {faster(last)}, "
        f"median and range of {verdict.repeats} runs of {verdict.timed_rows:,} rows in turn.",
    ]
    for one in verdict.others:
        beside = f"Beside {one.name} ({percent(one.accuracy)}): {points(one.gain)}"
        said.append(f"{beside}, measured speed-up {faster(one)}.")
    if coin is not None:
        said.append(
            f"Beside {coin.fast} on {percent(coin.share)} of the rows, drawn by chance, and {coin.slow} on "
            f"the others, in the same time ({percent(coin.accuracy)}): {points(coin.gain)}."
        )
    return (*said, _errors(verdict), _oracle(verdict.oracle), _mistakes(verdict.mistakes))


def _errors(verdict: Verdict) -> str:
    both = f"Both the cascade and its last stage are wrong on {percent(verdict.both_wrong)}."
    stages = [one for one in verdict.groups if one.kind == "stage"]
    lost, won = sum(one.lost for one in stages), sum(one.won for one in stages)
    said = f"{both} Cascading turned {lost:,} right answers wrong and {won:,} wrong ones right."
    heaviest = [_heaviest(verdict.groups, kind) for kind in ("class", "length")]
    shares = [
        f"{percent(share)} fall on {one.kind} '{one.name}' ({percent(one.share)} of the rows)"
        for one in heaviest
        if one is not None and (share := one.share_of_lost or 0.0) > one.share
    ]
    return f"{said} Of those lost {', '.join(shares)}." if shares else said


def _heaviest(groups: Sequence[Group], kind: str) -> Group | None:
    """The group of a kind that bears most beyond its share of the rows."""
    here = [one for one in groups if one.kind == kind]
    return max(here, key=lambda one: (one.share_of_lost or 0.0) - one.share, default=None)


def _oracle(oracle: OracleRouting) -> str:
    return (
        "A confidence that knew which answers the last stage changes would give "
        f"{percent(oracle.accuracy)} at {oracle.expected_speedup:.2f}x expected speed-up (this one: "
        f"{oracle.cascade_expected_speedup:.2f}x); {percent(oracle.over_deferred)} of the rows went further than "
        f"needed, {percent(oracle.early_mistakes)} left with another answer than the last stage's."
    )


def _mistakes(mistakes: HighConfidenceErrors) -> str:
    early = f"{mistakes.early:,} rows that left early"
    if mistakes.above_median is None:
        return f"None of the {early} lost a right answer of the last stage."
    least, *_, most = mistakes.confidences
    return (
        f"Of the {early} {mistakes.lost:,} lost a right answer of the last stage, at confidences from "
        f"{least:.2f} to {most:.2f}; {percent(mistakes.above_median)} of these were surer than half of all "
        "that left early (0 % if confidence told them apart, 50 % if it knew nothing)."
    )


def percent(value: float) -> str:
    """A share in words.

    >>> percent(0.12345)
    '12.3 %'
    """
    return f"{100 * value:.1f} %"
