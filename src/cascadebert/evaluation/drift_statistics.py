"""Test of whether thresholds selected on one sample still hold on another. Pure functions of stage outputs.

No labels are needed. Thresholds decide how often the cascade's prediction differs from its last stage's, and
that can be counted on any data. It is not accuracy: without labels nobody can tell whether the last stage
itself is still right. But whatever the labels are, the cascade's accuracy is at most the disagreement rate
below the last stage's.

All intervals hold jointly at the confidence level (Bonferroni over figures and samples).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.evaluation.templates import render_lines
from cascadebert.thresholds.intervals import binomial_interval, ks_distance
from cascadebert.thresholds.risk_control import MAX_SAMPLE_SIZE, StageOutputs
from cascadebert.thresholds.select import exit_stages
from cascadebert.types import Interval, Ints

TOLERANCE = 0.05
CONFIDENCE_LEVEL = 0.95

DriftVerdict = Literal["yes", "no", "inconclusive"]
Traffic = Literal["changed", "unchanged", "inconclusive"]
Origin = Literal["certificate", "requested", "reference"]


@dataclass(frozen=True)
class RateComparison:
    """A fraction on both samples."""

    reference: Interval
    new: Interval
    change: Interval  # new minus reference


@dataclass(frozen=True)
class AgreementTarget:
    """The agreement with the last stage that is required.

    With origin "reference" the value is the reference's agreement minus the tolerance. The reference is a
    sample too, so then the interval of the change decides.
    """

    value: float
    origin: Origin


@dataclass(frozen=True)
class DriftConfig:
    """Criteria of the test. Raises CascadeError if a number is out of range."""

    level: AgreementTarget | None = None  # None: the reference's agreement minus the tolerance
    tolerance: float = TOLERANCE  # change of a fraction that is ignored, in [0, 1)
    confidence_level: float = CONFIDENCE_LEVEL  # of all intervals jointly, in [0.5, 1)

    def __post_init__(self) -> None:
        level = 0.98 if self.level is None else self.level.value
        confidence = self.confidence_level
        for valid, name, expected, value in (
            (0 < level < 1, "minimum agreement", "in (0, 1) (such as 0.98)", level),
            (0 <= self.tolerance < 1, "tolerance", "in [0, 1) (such as 0.05)", self.tolerance),
            (0.5 <= confidence < 1, "confidence level", "in [0.5, 1) (such as 0.95)", confidence),
        ):
            if not valid:
                raise CascadeError(f"the {name} must be {expected}, not {value}")


@dataclass(frozen=True)
class StageDrift:
    """Behavior of one stage on both samples."""

    exit_rate: RateComparison
    mean_confidences: tuple[float, float]  # (reference, new), over all examples
    # Kolmogorov-Smirnov distance of the confidences of all examples: bounds the change in the exit rate for
    # any threshold. None for the last stage, which has no threshold.
    distance: Interval | None


@dataclass(frozen=True)
class DriftResult:
    """Result of drift detection: do the thresholds hold on new data, and what has changed there?

    The verdict is "yes" if agreement with the last stage is significantly at or above the level, "no" if it
    is significantly below. Traffic is "changed" if an exit rate or a confidence distribution has changed
    significantly by more than the tolerance, "unchanged" if all are significantly within it.
    """

    verdict: DriftVerdict
    traffic: Traffic
    agreement: RateComparison  # fraction of predictions that equal the last stage's
    level: AgreementTarget
    stages: tuple[StageDrift, ...]
    n_reference: int
    n_new: int
    tolerance: float
    confidence_level: float
    # Estimate, if inconclusive, of the new examples (and reference examples, if the level comes from there)
    # that would decide; None above a million, or if more data would not help.
    examples_needed: int | None
    same_rows: bool

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        return self._lines()[0]

    @property
    def reasons(self) -> tuple[str, ...]:
        """The findings behind the verdict, one sentence each."""
        return self._lines()[1:]

    def _lines(self) -> tuple[str, ...]:
        return render_lines(
            "evaluation/drift.txt.jinja",
            result=self,
            beyond=lambda change: _beyond(change, self.tolerance),
            exit_rates_within=all(_within(stage.exit_rate.change, self.tolerance) for stage in self.stages),
        )


def compare_outputs(
    reference: StageOutputs,
    new: StageOutputs,
    thresholds: tuple[float, ...],
    *,
    config: DriftConfig = DriftConfig(),
    same_rows: bool = False,
) -> DriftResult:
    """Test whether (num_stages - 1,) thresholds hold on new outputs as on independent reference outputs.

    With `same_rows` both are the same data, and the verdict is inconclusive. Raises CascadeError if there is
    only one stage, or the numbers of stages and thresholds do not match.

    >>> def outputs(n, agreeing):
    ...     predictions = np.array([[1] * agreeing + [0] * (n - agreeing), [1] * n])
    ...     return StageOutputs(np.tile(np.linspace(0.6, 1, n), (2, 1)), predictions, None, ("no", "yes"))
    >>> compare_outputs(outputs(2000, 1980), outputs(2000, 1700), (0.5,)).headline
    'no: the thresholds do not hold on the new data'
    """
    samples = {"reference": reference, "new": new}
    _check_stages(samples, thresholds)
    level, tolerance, num_stages = config.level, config.tolerance, len(thresholds) + 1
    num_rates = 1 if num_stages == 2 else num_stages  # two exit rates sum to 1, so one determines the other
    num_distances, num_agreements = num_stages - 1, 1
    delta = (1 - config.confidence_level) / (2 * (num_rates + num_distances + num_agreements))
    exits = [exit_stages(sample.confidences, thresholds) for sample in samples.values()]
    n_reference, n_new = sizes = [len(sample_exits) for sample_exits in exits]
    stages = []
    for stage in range(num_stages):
        old, now = (sample.confidences[stage] for sample in samples.values())
        rate = _compare_rates([int((sample_exits == stage).sum()) for sample_exits in exits], sizes, delta)
        distance = None if stage == num_stages - 1 else ks_distance(old, now, delta)
        stages.append(StageDrift(rate, (float(old.mean()), float(now.mean())), distance))
    pairs = zip(samples.values(), exits, strict=True)
    agreement = _compare_rates([_count_agreeing(*pair) for pair in pairs], sizes, delta)
    if level is None:
        level = AgreementTarget(agreement.reference.value - tolerance, "reference")
    verdict, needed = _verdict(agreement, level, tolerance), None
    if same_rows:
        verdict = "inconclusive"
    elif verdict == "inconclusive":
        needed = _examples_needed(agreement, level, tolerance, delta, sizes)
    return DriftResult(
        verdict=verdict,
        traffic=_traffic(stages, tolerance),
        agreement=agreement,
        level=level,
        stages=tuple(stages),
        n_reference=n_reference,
        n_new=n_new,
        tolerance=tolerance,
        confidence_level=config.confidence_level,
        examples_needed=needed,
        same_rows=same_rows,
    )


def _check_stages(samples: Mapping[str, StageOutputs], thresholds: tuple[float, ...]) -> None:
    if not thresholds:
        raise CascadeError("a cascade of one stage has no thresholds, so there is nothing to test")
    for name, outputs in samples.items():
        if len(outputs.predictions) != len(thresholds) + 1:
            raise CascadeError(
                f"expected outputs of {len(thresholds) + 1} stages, one more than there are thresholds; the "
                f"{name} outputs have {len(outputs.predictions)}"
            )


def _count_agreeing(outputs: StageOutputs, exits: Ints) -> int:
    predictions = outputs.predictions
    return int((predictions[exits, np.arange(len(exits))] == predictions[-1]).sum())


def _compare_rates(counts: Sequence[int], sizes: Sequence[int], delta: float) -> RateComparison:
    old, now = (binomial_interval(count, n, delta) for count, n in zip(counts, sizes, strict=True))
    return RateComparison(old, now, now.minus(old))


def _verdict(agreement: RateComparison, level: AgreementTarget, tolerance: float) -> DriftVerdict:
    from_reference = level.origin == "reference"
    slack = agreement.change.plus(tolerance) if from_reference else agreement.new.plus(-level.value)
    if slack.low >= 0:
        return "yes"
    return "no" if slack.high < 0 else "inconclusive"


def _beyond(change: Interval, tolerance: float) -> bool:
    """Significantly larger than the tolerance, up or down."""
    return change.low > tolerance or change.high < -tolerance


def _within(change: Interval, tolerance: float) -> bool:
    """Significantly no larger than the tolerance."""
    return -tolerance <= change.low and change.high <= tolerance


def _traffic(stages: Sequence[StageDrift], tolerance: float) -> Traffic:
    changes = [stage.exit_rate.change for stage in stages]
    changes += [stage.distance for stage in stages if stage.distance is not None]
    if any(_beyond(change, tolerance) for change in changes):
        return "changed"
    return "unchanged" if all(_within(change, tolerance) for change in changes) else "inconclusive"


def _examples_needed(
    agreement: RateComparison, level: AgreementTarget, tolerance: float, delta: float, sizes: Sequence[int]
) -> int | None:
    """Sample size that would decide if the rates stay as they are, rounded up to two digits."""

    def decided(n: int) -> bool:
        larger = [max(size, n) for size in sizes]
        rates = zip((agreement.reference, agreement.new), larger, strict=True)
        expected = _compare_rates([round(rate.value * size) for rate, size in rates], larger, delta)
        return _verdict(expected, level, tolerance) != "inconclusive"

    high = min(sizes) if level.origin == "reference" else sizes[1]
    while not decided(high):
        high *= 2
        if high > MAX_SAMPLE_SIZE:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    unit = int(10 ** max(len(str(high)) - 2, 0))
    return -(-high // unit) * unit
