"""Decision and evidence of the report, from stage outputs and timings. Pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.evaluation.evaluate import exit_rates, scale_stages
from cascadebert.evaluation.report import calibration_analysis, comparison, error_analysis
from cascadebert.evaluation.templates import render_lines
from cascadebert.thresholds.confidence import Score, softmax
from cascadebert.thresholds.select import exit_stages
from cascadebert.types import Bools, Floats, Ints, Logits


@dataclass(frozen=True)
class ReportInputs:
    """Measurements that the verdict is computed from."""

    logits: Logits  # (num_stages, n, num_labels), before scaling
    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    labels: Ints  # (n,) label ids
    label_names: tuple[str, ...]
    lengths: Ints  # (n,) tokens at the last stage
    seconds: Floats  # (num_stages, n) expected seconds that each stage adds to a text that reaches it
    last_stage_seconds: float  # expected seconds of a text at the last stage alone
    clock: comparison.WallClock  # measured on some or all of the texts
    baseline: tuple[str, Ints] | None = None  # name and (n,) predicted label ids of another predictor
    allowed_drop: float | None = None  # of accuracy against the last stage
    score: Score = field(default_factory=Score)


@dataclass(frozen=True)
class Verdict:
    """Whether to cascade on this data, and the evidence."""

    decision: comparison.Decision
    reasons: tuple[str, ...]
    n: int
    n_timed: int  # texts in each timed run
    repeats: int
    accuracy: float
    seconds: float  # per text, median over the runs
    exit_rates: tuple[float, ...]
    last_stage: comparison.Alternative
    alternatives: tuple[comparison.Alternative, ...]  # each earlier stage, then the baseline, if given
    random_routing: (
        comparison.RandomRouting | None
    )  # None unless stages are faster and slower than the cascade
    both_wrong: float  # fraction that both the cascade and the last stage misclassify
    groups: tuple[error_analysis.Group, ...]  # by class, by length and by stage
    oracle: error_analysis.OracleRouting
    high_confidence_errors: error_analysis.HighConfidenceErrors
    calibration: tuple[calibration_analysis.CalibrationAnalysis, ...]  # of each stage, then of the cascade


def compute_verdict(inputs: ReportInputs) -> Verdict:
    """Decide by the rule of `decide`. Raises CascadeError if there is no example."""
    labels, clock, n = inputs.labels, inputs.clock, len(inputs.labels)
    if not n:
        raise CascadeError("a verdict needs labelled examples; none were given")
    probabilities = softmax(scale_stages(inputs.logits, inputs.temperatures))
    confidences, predictions = inputs.score.all_stages(probabilities), probabilities.argmax(axis=2)
    exits, rows = exit_stages(confidences, inputs.thresholds), np.arange(n)
    stages_correct, num_stages = predictions == labels, len(predictions)
    correct, last_correct = stages_correct[exits, rows], stages_correct[-1]
    early, at_exit = exits < num_stages - 1, confidences[exits, rows]
    last_stage, *alternatives = _compare(inputs, correct, stages_correct)
    rates = exit_rates(exits, num_stages)
    routing = comparison.random_routing_baseline(correct, stages_correct, clock)
    decision, reasons = comparison.decide(n, rates, last_stage, alternatives, routing, inputs.allowed_drop)
    kinds = {
        "class": (labels, inputs.label_names),
        "length": error_analysis.length_buckets(inputs.lengths),
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
        groups=error_analysis.error_groups(kinds, correct, last_correct),
        oracle=error_analysis.oracle_routing(
            exits, predictions, labels, inputs.seconds, inputs.last_stage_seconds
        ),
        high_confidence_errors=error_analysis.high_confidence_errors(early, at_exit, correct, last_correct),
        calibration=calibration_analysis.analyze_cascade(inputs.logits, inputs.temperatures, exits, labels),
    )


def _compare(inputs: ReportInputs, correct: Bools, stages_correct: Bools) -> list[comparison.Alternative]:
    """The last stage, the earlier stages and the baseline, compared with the cascade."""
    clock, num_stages = inputs.clock, len(stages_correct)
    alternatives = [
        comparison.compare_alternative(
            f"stage {i + 1} alone", correct, stages_correct[i], clock, clock.stages[i]
        )
        for i in (num_stages - 1, *range(num_stages - 1))
    ]
    if inputs.baseline is not None and clock.baseline is not None:
        name, predicted = inputs.baseline
        baseline_correct = predicted == inputs.labels
        alternatives.append(
            comparison.compare_alternative(name, correct, baseline_correct, clock, clock.baseline)
        )
    return alternatives


def summary(verdict: Verdict) -> tuple[str, ...]:
    """The verdict in sentences, the decision first."""
    stages = [group for group in verdict.groups if group.kind == "stage"]
    worst = [
        max((group for group in verdict.groups if group.kind == kind), key=_excess_regressions)
        for kind in ("class", "length")
    ]
    return render_lines(
        "report/summary.txt.jinja",
        verdict=verdict,
        regressions=sum(group.regressions for group in stages),
        corrections=sum(group.corrections for group in stages),
        overrepresented=[group for group in worst if _excess_regressions(group) > 0],
    )


def _excess_regressions(group: error_analysis.Group) -> float:
    return (group.fraction_of_regressions or 0.0) - group.fraction
