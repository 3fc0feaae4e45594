"""The findings of a build in sentences and rows, for the page and the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from cascadebert.errors import printable
from cascadebert.evaluation.templates import percent, percent_interval, points, rate, times
from cascadebert.thresholds.operating_point import Target
from cascadebert.training.cascade_builder.result import (
    BuildResult,
    CandidateReport,
    ReportMetrics,
    TriedChain,
)
from cascadebert.types import Interval

MAX_RUNNERS_UP = 10
PIPELINE = "transformers pipeline, batch 32"  # its name in a benchmark


@dataclass(frozen=True)
class ChosenStage:
    """A stage of the chosen chain."""

    candidate: CandidateReport
    exit_rate: float | None  # on the report examples


def headline(result: BuildResult) -> str:
    """The decision."""
    report = result.report
    if not result.cascades or report is None:
        return "Do not cascade"
    speed = f"{report.timing.measured_speedup:.1f}x as fast as {printable(result.model, 40)} alone"
    drop = report.accuracy_drop
    accuracy = "" if drop is None else f", accuracy {100 * _gain(drop).value:+.1f} points"
    return f"Cascade: {speed}, agreement {percent(report.agreement.value)}{accuracy}"


def requirement(target: Target) -> str:
    """The target in words.

    >>> requirement(Target(max_accuracy_drop=0.005))
    "an accuracy at most 0.5 points below the classifier's"
    """
    value = 100 * target.value
    return {
        "speedup": f"an expected speed-up of at least {target.value:g}x",
        "max_accuracy_drop": f"an accuracy at most {value:g} points below the classifier's",
        "min_accuracy": f"an accuracy of at least {value:g} %",
        "min_agreement": f"the classifier's prediction on at least {value:g} % of the texts",
    }[target.name]


def evidence(result: BuildResult) -> tuple[str, ...]:
    """The metrics on the report examples in sentences."""
    report = result.report
    if report is None:
        return ()
    sentences = [
        f"Agreement with the classifier on {report.n:,} examples that had no part in making the cascade: "
        f"{percent_interval(report.agreement)}."
    ]
    if report.accuracy is not None and report.classifier_accuracy is not None:
        gain = "" if report.accuracy_drop is None else f": {points(_gain(report.accuracy_drop))}"
        sentences.append(
            f"Accuracy on them {percent(report.accuracy)}, the classifier's "
            f"{percent(report.classifier_accuracy)}{gain}."
        )
    sentences += _speed(report)
    if report.oracle_share is not None:
        sentences.append(
            f"The expected speed-up is {percent(report.oracle_share)} of that of oracle routing, which knows "
            "the first stage that agrees with the classifier."
        )
    return tuple(sentences)


def _speed(report: ReportMetrics) -> list[str]:
    timing = report.timing
    sentences = [
        f"Measured speed-up over the classifier alone on the same engine: "
        f"{times(timing.measured_speedup, timing.range)}, median and range of {timing.repeats} interleaved "
        f"runs of {timing.n:,} texts."
    ]
    ours = timing.cascade.examples_per_second
    for other in timing.others:
        if other.name == PIPELINE:
            theirs = other.examples_per_second
            compared = f"{ours / theirs:.1f}x, {rate(ours)} against {rate(theirs)} texts per second"
            return [*sentences, f"Over transformers.pipeline, float32, in batches of 32: {compared}."]
    return [*sentences, "It was not timed against transformers.pipeline."]


def choice_sentences(result: BuildResult) -> tuple[str, ...]:
    """The reasons for the chosen chain."""
    chosen = result.chosen
    if chosen is None:
        return ()
    count = len({chain.stages for chain in chosen.tried})  # each with every score
    if chosen.level is None:
        which = f"the one of {count:,} chains that agrees most" if count > 1 else "the only chain"
        why = f"{which}, of those with {requirement(result.target)} on the tuning set"
    else:
        which = f"the fastest of {count:,} chains" if count > 1 else "the only chain"
        level = (
            "the lowest level at which the whole choice, cross-validated, met the target"
            if chosen.meets_target
            else "the strictest level; at none did the whole choice, cross-validated, meet the target"
        )
        why = f"{which} with at least {100 * chosen.level:g} % agreement on the tuning set, {level}"
    held_out = chosen.held_out
    error = 100 * held_out.agreement_error
    metrics = [f"agreement {percent(held_out.agreement)} (standard error {error:.1f} points)"]
    if held_out.accuracy_drop is not None:
        assert held_out.accuracy is not None and held_out.drop_error is not None
        gain, error = 0 - 100 * held_out.accuracy_drop, 100 * held_out.drop_error
        metrics.append(
            f"accuracy {percent(held_out.accuracy)} ({gain:+.1f} points, standard error {error:.1f})"
        )
    metrics.append(f"expected speed-up {held_out.speedup:.2f}x")
    meets = "meets" if chosen.meets_target else "does not meet"
    return (
        f"Target: {requirement(result.target)}.",
        f"Chosen: {why}.",
        f"Cross-validated, with stages, score and thresholds as one choice, it {meets} the target: "
        f"{', '.join(metrics)}.",
    )


def certificate_sentence(result: BuildResult) -> str:
    """The certificate, or the reason why there is none."""
    certification = result.certification
    if certification is None:
        return "No cascade was saved, so none is certified."
    level = f"at {percent(certification.confidence_level)} confidence"
    if certification.guarantee is None:
        reason = f": {certification.reason}" if certification.reason else ""
        return f"Not certified {level}{reason}".removesuffix(".") + "."
    bound = "" if certification.bound is None else f"; their own bound is {certification.bound:.4f}"
    return (
        f"Certified {level}: {certification.guarantee} on new data like these "
        f"({certification.n:,} examples{bound})."
    )


def chosen_stages(result: BuildResult) -> tuple[ChosenStage, ...]:
    """The stages of the chosen chain, in their order."""
    if result.chosen is None:
        return ()
    by_name = {candidate.name: candidate for candidate in result.candidates}
    names = result.chosen.stages
    rates = [None] * len(names) if result.report is None else result.report.timing.exit_rates
    return tuple(ChosenStage(by_name[name], share) for name, share in zip(names, rates, strict=True))


def runners_up(result: BuildResult) -> tuple[TriedChain, ...]:
    """The fastest of the chains that were not chosen, up to ten."""
    chosen = result.chosen
    if chosen is None:
        return ()
    others = [chain for chain in chosen.tried if (chain.stages, chain.score) != (chosen.stages, chosen.score)]
    return tuple(others[:MAX_RUNNERS_UP])


def _gain(drop: Interval) -> Interval:
    """The accuracy relative to the classifier's."""
    return Interval(0, 0, 0).minus(drop)
