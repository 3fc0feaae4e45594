"""Whether thresholds picked on some rows still hold on others. Pure: what stages say in, a verdict out.

No labels are looked at. A threshold decides how often the cascade answers otherwise than its last stage
would, and that can be counted on any rows. It is not accuracy: without labels nobody can say whether the
last stage itself is still right there. But whatever the labels are, the cascade's accuracy is at most the
share of such rows below the last stage's own.

All intervals hold together at the confidence level (Bonferroni over figures and files).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.thresholds.intervals import binomial_interval, ks_distance
from cascadebert.thresholds.risk_control import MOST_ROWS, StageOutputs
from cascadebert.thresholds.select import exit_stages
from cascadebert.types import Bools, Interval, Ints

TOLERANCE = 0.05
CONFIDENCE_LEVEL = 0.95

Verdict = Literal["yes", "no", "cannot tell"]
Traffic = Literal["changed", "unchanged", "cannot tell"]
Origin = Literal["certificate", "asked", "reference"]


@dataclass(frozen=True)
class RateComparison:
    """A share on both files.

    Attributes:
        reference: of the rows it was known on.
        new: of the new rows.
        change: new less reference.
    """

    reference: Interval
    new: Interval
    change: Interval


@dataclass(frozen=True)
class AgreementTarget:
    """The agreement with the last stage that must hold.

    Attributes:
        value: a share; where it comes from the reference, that of its rows less the tolerance.
        origin: the "certificate", what was "asked", or the "reference": then no more than the tolerance may
            be lost, and the interval of the change decides, as the reference is a sample too.
    """

    value: float
    origin: Origin


@dataclass(frozen=True)
class DriftConfig:
    """What counts as holding.

    Attributes:
        level: of agreement with the last stage; None for that of the reference less the tolerance.
        tolerance: the change of a share that does not count, in [0, 1).
        confidence_level: of all intervals together, in [0.5, 1).

    Raises:
        CascadeError: if a number is out of range.
    """

    level: AgreementTarget | None = None
    tolerance: float = TOLERANCE
    confidence_level: float = CONFIDENCE_LEVEL

    def __post_init__(self) -> None:
        if self.level is not None and not 0 < self.level.value < 1:
            raise CascadeError(
                f"the least agreement lies between 0 and 1 (such as 0.98), not at {self.level.value}"
            )
        if not 0 <= self.tolerance < 1:
            raise CascadeError(
                f"a tolerance is a share of at least 0 and below 1 (such as 0.05), not {self.tolerance}"
            )
        if not 0.5 <= self.confidence_level < 1:
            raise CascadeError(
                f"a confidence level lies between 0.5 and 1 (such as 0.95), not at {self.confidence_level}"
            )


@dataclass(frozen=True)
class StageDrift:
    """What one stage did on both files.

    Attributes:
        exit_rate: share of the rows answered there.
        mean_confidences: on the reference and on the new rows, over all rows.
        distance: Kolmogorov-Smirnov distance of its confidences over all rows: the most that any threshold
            would see its share of sure rows change. None for the last stage, which has no threshold.
    """

    exit_rate: RateComparison
    mean_confidences: tuple[float, float]
    distance: Interval | None


@dataclass(frozen=True)
class DriftResult:
    """Whether thresholds hold on new rows, and what has changed there.

    Attributes:
        verdict: "yes": agreement with the last stage is surely at least the level; "no": surely below;
            "cannot tell": its interval holds the level, or both files are the same rows.
        traffic: "changed": an exit rate or a distribution of confidences has surely changed by more than
            the tolerance; "unchanged": surely none has; else "cannot tell".
        agreement: share of rows whose answer is the last stage's own.
        level: what agreement must reach.
        stages: in order.
        n_reference: rows there.
        n_new: rows there.
        tolerance: the change of a share that does not count.
        confidence_level: at which all intervals hold together.
        rows_needed: where the verdict is open, rows after which it would not be, if shares stay as they
            are: of the new file, and of the reference too where the level comes from there. None if that
            is more than a million, or the verdict is not open for want of rows.
        same_rows: whether both files hold the same rows.
    """

    verdict: Verdict
    traffic: Traffic
    agreement: RateComparison
    level: AgreementTarget
    stages: tuple[StageDrift, ...]
    n_reference: int
    n_new: int
    tolerance: float
    confidence_level: float
    rows_needed: int | None
    same_rows: bool

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        if self.same_rows:
            return "cannot tell: both files hold the same rows, so nothing new was seen"
        changed = self.traffic == "changed"
        if self.verdict == "yes" and changed:
            return "yes: the traffic has changed, the promise still holds"
        said = {
            "yes": "yes: the thresholds hold there",
            "no": "no: the thresholds do not hold there",
            "cannot tell": "cannot tell: these rows do not say whether the thresholds hold",
        }[self.verdict]
        return f"{said}; the traffic has changed" if changed else said

    @property
    def reasons(self) -> tuple[str, ...]:
        """What the verdict rests on, one sentence each."""
        said = [self._agreement_words()]
        if self.level.origin != "reference" and self.agreement.reference.high < self.level.value:
            said.append("Agreement on the reference is surely below that level too: this is no change.")
        if self.verdict == "cannot tell" and not self.same_rows:
            said.append(self._rows_words())
        most = 100 * (1 - self.agreement.new.low)
        said.append(
            f"Whatever the labels are, the cascade's accuracy there is at most {most:.1f} points below the "
            "last stage's own. Whether the last stage itself is still right needs labels."
        )
        return (*said, *self._traffic_words())

    def _agreement_words(self) -> str:
        new, old = self.agreement.new, self.agreement.reference
        seen = f"The answer is the last stage's own on {_percent(new)} of the {self.n_new:,} new rows"
        if self.level.origin != "reference":
            whose = "by the certificate" if self.level.origin == "certificate" else "as asked for"
            return f"{seen}; it must be on {100 * self.level.value:g} % or more, {whose}."
        return (
            f"{seen} and on {_percent(old)} of the {self.n_reference:,} reference rows: a change of "
            f"{_points(self.agreement.change)}; a loss of up to {100 * self.tolerance:g} points is allowed."
        )

    def _rows_words(self) -> str:
        where = "in each file" if self.level.origin == "reference" else "in the new file"
        if self.rows_needed is None:
            return f"Agreement is so close to its level that even a million rows {where} would not tell."
        return f"About {self.rows_needed:,} rows {where} would tell, if the shares stay as they are."

    def _traffic_words(self) -> list[str]:
        limit = f"{100 * self.tolerance:g} points"
        exits = all(_within(stage.exit_rate.change, self.tolerance) for stage in self.stages)
        if self.traffic == "unchanged":
            return [f"No exit rate and no distribution of confidences has changed by more than {limit}."]
        said = []
        for number, stage in enumerate(self.stages, start=1):
            if _beyond(stage.exit_rate.change, self.tolerance):
                said.append(
                    f"Stage {number} answers {_percent(stage.exit_rate.new)} of the rows, on the reference "
                    f"{_percent(stage.exit_rate.reference)}: {_points(stage.exit_rate.change)}."
                )
            if stage.distance is not None and _beyond(stage.distance, self.tolerance):
                old, new = stage.mean_confidences
                said.append(
                    f"Confidences of stage {number} differ by {_percent(stage.distance)}, by Kolmogorov and "
                    f"Smirnov's distance; their mean is {new:.3f}, on the reference {old:.3f}."
                )
        if said:
            return said
        if exits:
            return [f"No exit rate has changed by more than {limit}; of the confidences it cannot be told."]
        return [f"Whether an exit rate or the confidences have changed by more than {limit} cannot be told."]


def _percent(one: Interval) -> str:
    return f"{100 * one.value:.1f} % ({100 * one.low:.1f} to {100 * one.high:.1f})"


def _points(one: Interval) -> str:
    return f"{100 * one.value:+.1f} points ({100 * one.low:+.1f} to {100 * one.high:+.1f})"


def compare_outputs(
    reference: StageOutputs,
    new: StageOutputs,
    thresholds: tuple[float, ...],
    *,
    terms: DriftConfig = DriftConfig(),
    same_rows: bool = False,
) -> DriftResult:
    """Say whether thresholds hold on new rows as they did on the reference.

    Args:
        reference: what every stage says of rows on which the thresholds were known to hold.
        new: what every stage says of the rows in question; drawn apart from those.
        thresholds: (num_stages - 1,).
        terms: what counts as holding.
        same_rows: whether both are the same rows, of which nothing can be learnt.

    Raises:
        CascadeError: if there is only one stage, or the stages and thresholds do not fit together.

    >>> def rows(n, agreeing):
    ...     said = np.array([[1] * agreeing + [0] * (n - agreeing), [1] * n])
    ...     return StageOutputs(np.tile(np.linspace(0.6, 1, n), (2, 1)), said, None, ("no", "yes"))
    >>> found = compare_outputs(rows(2000, 1980), rows(2000, 1700), (0.5,))
    >>> found.headline
    'no: the thresholds do not hold there'
    >>> compare_outputs(rows(2000, 1980), rows(2000, 1976), (0.5,), terms=DriftConfig(AgreementTarget(0.97, "certificate"))).verdict
    'yes'
    >>> few = compare_outputs(rows(2000, 1980), rows(50, 49), (0.5,))
    >>> few.verdict, few.rows_needed
    ('cannot tell', 260)
    """
    _check(reference, new, thresholds)
    level, tolerance = terms.level, terms.tolerance
    num_stages = len(thresholds) + 1
    rates = 1 if num_stages == 2 else num_stages  # of two exit rates one is what the other leaves
    share = (1 - terms.confidence_level) / (2 * (rates + num_stages - 1 + 1))
    exits = exit_stages(reference.confidences, thresholds), exit_stages(new.confidences, thresholds)
    stages = tuple(_stage(reference, new, exits, stage, share) for stage in range(num_stages))
    agreement = _compared(_agrees(reference, exits[0]), _agrees(new, exits[1]), share)
    if level is None:
        level = AgreementTarget(agreement.reference.value - tolerance, "reference")
    verdict: Verdict = "cannot tell" if same_rows else _verdict(agreement, level, tolerance)
    sizes = len(exits[0]), len(exits[1])
    open_for_rows = verdict == "cannot tell" and not same_rows
    return DriftResult(
        verdict=verdict,
        traffic=_traffic(stages, tolerance),
        agreement=agreement,
        level=level,
        stages=stages,
        n_reference=sizes[0],
        n_new=sizes[1],
        tolerance=tolerance,
        confidence_level=terms.confidence_level,
        rows_needed=_rows_needed(agreement, level, tolerance, share, sizes) if open_for_rows else None,
        same_rows=same_rows,
    )


def _check(reference: StageOutputs, new: StageOutputs, thresholds: tuple[float, ...]) -> None:
    if not thresholds:
        raise CascadeError("a cascade of one stage has no thresholds: there is nothing that could fail")
    for name, one in (("reference", reference), ("new", new)):
        if len(one.labels) != len(thresholds) + 1:
            raise CascadeError(
                f"thresholds for {len(thresholds) + 1} stages were given; the {name} rows have answers of "
                f"{len(one.labels)}"
            )


def _agrees(answers: StageOutputs, exits: Ints) -> Bools:
    """(n,) True where the cascade's answer is the last stage's own."""
    return np.asarray(answers.labels[exits, np.arange(len(exits))] == answers.labels[-1])


def _stage(
    reference: StageOutputs, new: StageOutputs, exits: tuple[Ints, Ints], stage: int, share: float
) -> StageDrift:
    old_sure, new_sure = reference.confidences[stage], new.confidences[stage]
    last = stage == len(new.labels) - 1
    return StageDrift(
        exit_rate=_compared(exits[0] == stage, exits[1] == stage, share),
        mean_confidences=(float(old_sure.mean()), float(new_sure.mean())),
        distance=None if last else ks_distance(old_sure, new_sure, share),
    )


def _compared(reference: Bools, new: Bools, share: float) -> RateComparison:
    old = binomial_interval(int(reference.sum()), len(reference), share)
    now = binomial_interval(int(new.sum()), len(new), share)
    return RateComparison(old, now, now.minus(old))


def _room(agreement: RateComparison, level: AgreementTarget, tolerance: float) -> Interval:
    """By how much agreement exceeds what it must reach."""
    if level.origin == "reference":
        return agreement.change.plus(tolerance)
    return agreement.new.plus(-level.value)


def _verdict(agreement: RateComparison, level: AgreementTarget, tolerance: float) -> Verdict:
    room = _room(agreement, level, tolerance)
    if room.low >= 0:
        return "yes"
    return "no" if room.high < 0 else "cannot tell"


def _beyond(change: Interval, tolerance: float) -> bool:
    """Whether a change is surely larger than the tolerance, up or down."""
    return change.low > tolerance or change.high < -tolerance


def _within(change: Interval, tolerance: float) -> bool:
    """Whether a change is surely no larger than the tolerance."""
    return -tolerance <= change.low and change.high <= tolerance


def _traffic(stages: tuple[StageDrift, ...], tolerance: float) -> Traffic:
    changes = [stage.exit_rate.change for stage in stages]
    changes += [stage.distance for stage in stages if stage.distance is not None]
    if any(_beyond(change, tolerance) for change in changes):
        return "changed"
    return "unchanged" if all(_within(change, tolerance) for change in changes) else "cannot tell"


def _rows_needed(
    agreement: RateComparison, level: AgreementTarget, tolerance: float, share: float, sizes: tuple[int, int]
) -> int | None:
    """Rows of the new file (and of the reference where it sets the level) that close the verdict, roundly."""

    def closed(n: int) -> bool:
        rows = max(sizes[0], n), max(sizes[1], n)
        old = binomial_interval(round(agreement.reference.value * rows[0]), rows[0], share)
        new = binomial_interval(round(agreement.new.value * rows[1]), rows[1], share)
        return _verdict(RateComparison(old, new, new.minus(old)), level, tolerance) != "cannot tell"

    high = min(sizes) if level.origin == "reference" else sizes[1]
    while not closed(high):
        high *= 2
        if high > MOST_ROWS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if closed(middle) else (middle, high)
    unit = int(10 ** max(len(str(high)) - 2, 0))
    return -(-high // unit) * unit
