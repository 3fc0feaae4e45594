"""Decision and evidence of the report, from stage outputs and timings. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.evaluation.cost_model import RowCosts
from cascadebert.evaluation.evaluate import exit_rates, scale_stages
from cascadebert.evaluation.metrics import paired_difference
from cascadebert.evaluation.report import analysis
from cascadebert.evaluation.templates import points, render_lines, times
from cascadebert.thresholds.confidence import Score, softmax
from cascadebert.thresholds.intervals import bootstrap_mean
from cascadebert.thresholds.select import exit_stages
from cascadebert.types import Bools, Floats, Interval, Ints, Logits

NEGLIGIBLE_GAIN = 0.005
MIN_EXAMPLES = 100
Decision = Literal["cascade", "do not cascade", "inconclusive"]


@dataclass(frozen=True)
class WallClock:
    """Seconds of interleaved runs over the same texts; run i of each predictor belongs together."""

    n: int  # texts per run
    cascade: Floats  # (repeats,)
    stages: Floats  # (num_stages, repeats), each stage alone
    baseline: Floats | None = None  # (repeats,)


@dataclass(frozen=True)
class Alternative:
    """Another predictor on the same examples, compared with the cascade."""

    name: str
    accuracy: float
    gain: Interval  # accuracy of the cascade minus its own
    seconds: float  # per text, median over the runs
    measured_speedup: float  # its seconds over the cascade's, median over the runs
    range: tuple[float, float]  # lowest and highest of these ratios


@dataclass(frozen=True)
class RandomRouting:
    """Two stages alone, one drawn at random for each text such that the mean time is the cascade's.

    A confidence that does not beat it is useless.
    """

    fast: str  # name of the faster stage
    slow: str
    fraction: float  # of the texts, for the faster stage
    accuracy: float  # expected
    gain: Interval  # accuracy of the cascade minus that


@dataclass(frozen=True)
class ReportInputs:
    """Measurements that the verdict is computed from."""

    logits: Logits  # (num_stages, n, num_labels), before scaling
    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    labels: Ints  # (n,) label ids
    label_names: tuple[str, ...]
    lengths: Ints  # (n,) tokens at the last stage
    seconds: RowCosts  # expected, from the latency of each stage
    clock: WallClock  # measured on some or all of the texts
    baseline: tuple[str, Ints] | None = None  # name and (n,) predicted label ids of another predictor
    allowed_drop: float | None = None  # of accuracy against the last stage
    score: Score = field(default_factory=Score)


@dataclass(frozen=True)
class Verdict:
    """Decision for or against a cascade on this data, and the evidence."""

    decision: Decision
    reasons: tuple[str, ...]
    n: int
    n_timed: int  # texts in each timed run
    repeats: int
    accuracy: float
    seconds: float  # per text, median over the runs
    exit_rates: tuple[float, ...]
    last_stage: Alternative
    alternatives: tuple[Alternative, ...]  # each earlier stage, then the baseline, if given
    random_routing: RandomRouting | None  # None unless some stage is faster and one slower than the cascade
    both_wrong: float  # fraction that both the cascade and the last stage misclassify
    groups: tuple[analysis.Group, ...]  # by class, by length and by stage
    oracle: analysis.OracleRouting
    high_confidence_errors: analysis.HighConfidenceErrors
    calibration: tuple[analysis.CalibrationAnalysis, ...]  # of each stage, then of the cascade


def compute_verdict(inputs: ReportInputs) -> Verdict:
    """Decide by the rule of `decide`. Raises CascadeError if there is no example."""
    labels, clock, n = inputs.labels, inputs.clock, len(inputs.labels)
    if not n:
        raise CascadeError("a verdict needs labeled examples; none were given")
    probabilities = softmax(scale_stages(inputs.logits, inputs.temperatures))
    confidences, predictions = inputs.score.all_stages(probabilities), probabilities.argmax(axis=2)
    exits, rows = exit_stages(confidences, inputs.thresholds), np.arange(n)
    stages_correct, num_stages = predictions == labels, len(predictions)
    correct, last_correct = stages_correct[exits, rows], stages_correct[-1]
    last_stage, *alternatives = _compare(inputs, correct, stages_correct)
    rates = exit_rates(exits, num_stages)
    routing = random_routing_baseline(correct, stages_correct, clock)
    decision, reasons = decide(n, rates, last_stage, alternatives, routing, inputs.allowed_drop)
    kinds = {
        "class": (labels, inputs.label_names),
        "length": analysis.length_buckets(inputs.lengths),
        "stage": (exits, [f"exit at stage {i + 1}" for i in range(num_stages)]),
    }
    return Verdict(
        decision=decision,
        reasons=reasons,
        n=n,
        n_timed=clock.n,
        repeats=len(clock.cascade),
        accuracy=float(correct.mean()),
        seconds=float(np.median(clock.cascade)) / clock.n,
        exit_rates=rates,
        last_stage=last_stage,
        alternatives=tuple(alternatives),
        random_routing=routing,
        both_wrong=float((~correct & ~last_correct).mean()),
        groups=analysis.error_groups(kinds, correct, last_correct),
        oracle=analysis.oracle_routing(exits, predictions, labels, inputs.seconds),
        high_confidence_errors=analysis.high_confidence_errors(
            exits < num_stages - 1, confidences[exits, rows], correct, last_correct
        ),
        calibration=analysis.analyze_calibration(inputs.logits, inputs.temperatures, exits, labels),
    )


def _compare(inputs: ReportInputs, correct: Bools, stages_correct: Bools) -> list[Alternative]:
    """The last stage, the earlier stages and the baseline, compared with the cascade."""
    clock = inputs.clock
    predictors = [
        (f"stage {number} alone", *arrays)
        for number, arrays in enumerate(zip(stages_correct, clock.stages, strict=True), start=1)
    ]
    predictors.insert(0, predictors.pop())
    if inputs.baseline is not None and clock.baseline is not None:
        name, predicted = inputs.baseline
        predictors.append((name, predicted == inputs.labels, clock.baseline))
    alternatives = []
    for name, predictor_correct, seconds in predictors:
        ratios = seconds / clock.cascade
        alternatives.append(
            Alternative(
                name=name,
                accuracy=float(predictor_correct.mean()),
                gain=paired_difference(correct, predictor_correct),
                seconds=float(np.median(seconds)) / clock.n,
                measured_speedup=float(np.median(ratios)),
                range=(float(ratios.min()), float(ratios.max())),
            )
        )
    return alternatives


def summary(verdict: Verdict) -> tuple[str, ...]:
    """The verdict in sentences, the decision first."""
    worst = [
        max((group for group in verdict.groups if group.kind == kind), key=_excess_regressions)
        for kind in ("class", "length")
    ]
    overrepresented = [group for group in worst if _excess_regressions(group) > 0]
    return render_lines(
        "evaluation/report/summary.txt.jinja", verdict=verdict, overrepresented=overrepresented
    )


def _excess_regressions(group: analysis.Group) -> float:
    return (group.fraction_of_regressions or 0.0) - group.fraction


def random_routing_baseline(correct: Bools, stages_correct: Bools, clock: WallClock) -> RandomRouting | None:
    """The most accurate random routing between two stages that takes the cascade's time, if there is one.

    `correct` is (n,) for the cascade, `stages_correct` (num_stages, n) for each stage alone.
    """
    limit, seconds = float(np.median(clock.cascade)), np.median(clock.stages, axis=1)
    accuracies, candidates = stages_correct.mean(axis=1), []
    for fast in np.flatnonzero(seconds <= limit).tolist():
        for slow in np.flatnonzero(seconds > limit).tolist():
            fraction = float((seconds[slow] - limit) / (seconds[slow] - seconds[fast]))
            accuracy = float(fraction * accuracies[fast] + (1 - fraction) * accuracies[slow])
            candidates.append((accuracy, fraction, fast, slow))
    if not candidates:
        return None
    accuracy, fraction, fast, slow = max(candidates)
    gains = correct - fraction * stages_correct[fast] - (1 - fraction) * stages_correct[slow]
    gain = bootstrap_mean(*np.unique(np.round(gains, 12), return_counts=True))
    return RandomRouting(f"stage {fast + 1} alone", f"stage {slow + 1} alone", fraction, accuracy, gain)


def decide(
    n: int,
    exit_rates: Sequence[float],
    last: Alternative,
    others: Sequence[Alternative],
    random_routing: RandomRouting | None,
    allowed_drop: float | None = None,
) -> tuple[Decision, tuple[str, ...]]:
    """The decision and its reasons.

    *Do not cascade* if one stage predicts every text; if the cascade was not faster than its last stage in
    any run; if an alternative was at least as fast in every run and is at least as accurate, or significantly
    (95 %) less than half a point behind; if random routing does as well in the same time; or if the accuracy
    drop is significantly larger than allowed. Otherwise *inconclusive* if one of these is still possible, or
    there are fewer than 100 examples (then only the first two rules can decide against the cascade).
    Otherwise *cascade*.
    """
    against, open_questions = _speed_reasons(exit_rates, last)
    accuracy_against = open_questions if n < MIN_EXAMPLES else against
    for alternative in others:
        gain, (low, high) = alternative.gain, alternative.range
        no_gain = gain.value <= 0 or gain.high < NEGLIGIBLE_GAIN
        relative = f"the cascade's accuracy relative to it: {points(gain)}."
        if high <= 1 and (no_gain or gain.low <= 0):
            target = accuracy_against if no_gain else open_questions
            target.append(f"{alternative.name} is at least as fast; {relative}")
        elif low <= 1 < high and gain.low <= 0:
            open_questions.append(f"{alternative.name} is about as fast; {relative}")
    if random_routing is not None and random_routing.gain.low <= 0:
        (accuracy_against if random_routing.gain.value <= 0 else open_questions).append(
            f"random routing between {random_routing.fast} and {random_routing.slow} takes as long; "
            f"the cascade's accuracy relative to it: {points(random_routing.gain)}, so its confidence tells "
            "too little."
        )
    limit = np.inf if allowed_drop is None else allowed_drop
    exceeded = f"the accuracy drop exceeds the allowed {100 * limit:g} points"
    if last.gain.value < -limit and last.gain.high < -limit:
        accuracy_against.append(f"{exceeded}: {points(last.gain)}. Tune the thresholds on data like this.")
    if n < MIN_EXAMPLES:
        open_questions.append(f"{n} examples are too few; give {MIN_EXAMPLES} or more.")
    if against:
        return "do not cascade", tuple(against)
    if open_questions:
        return "inconclusive", tuple(open_questions)
    speed = times(last.measured_speedup, last.range)
    reason = f"it is {speed} as fast as its last stage alone, at {points(last.gain)}."
    not_significant = (f"{exceeded}, but not significantly.",) if last.gain.value < -limit else ()
    return "cascade", (reason, *not_significant)


def _speed_reasons(exit_rates: Sequence[float], last: Alternative) -> tuple[list[str], list[str]]:
    """Reasons against the cascade, and open questions, by its exits and its speed."""
    speed = times(last.measured_speedup, last.range)
    if max(exit_rates) == 1:
        return [f"stage {int(np.argmax(exit_rates)) + 1} predicts every text: use it alone."], []
    if last.range[1] <= 1:
        return [f"it is not faster than its last stage alone: {speed}."], []
    if last.range[0] <= 1:
        return [], [f"it is faster than its last stage alone in some runs only: {speed}."]
    return [], []
