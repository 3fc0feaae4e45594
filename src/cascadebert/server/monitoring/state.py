"""What the watch compares with, and what it has found: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cascadebert.inference.cascade import Cascade
from cascadebert.server.operating_points import certified_operating_points
from cascadebert.types import Histogram

AlarmKind = Literal["agreement", "recent agreement", "exit rates", "confidences"]


@dataclass(frozen=True)
class Reference:
    """What the traffic is compared with.

    Attributes:
        num_stages: of the cascade.
        level: of agreement that is certified, or None.
        exit_rates: of each operating point, from safest to fastest, (num_stages,) on the tune rows; empty
            where they are not known.
        n: tune rows.
        confidences: of the first stage on the tune rows, or None.
    """

    num_stages: int
    level: float | None = None
    exit_rates: tuple[tuple[float, ...], ...] = ((),)
    n: int = 0
    confidences: Histogram | None = None


@dataclass(frozen=True)
class ShareComparison:
    """Shares of the traffic beside those of the tune rows.

    Attributes:
        calibrated: (k,) on the tune rows: rows answered at some stage or before it; rows whose confidence is
            at most some edge of the histogram.
        lately: (k,) in some 5,000 rows; empty without rows.
        allowed: (k,) the difference that is no alarm: tolerance and band of the tune rows.
        rows: compared so far.
    """

    calibrated: tuple[float, ...]
    lately: tuple[float, ...]
    allowed: tuple[float, ...]
    rows: int


@dataclass(frozen=True)
class PointState:
    """What was seen at one operating point.

    Attributes:
        point: its place on the ladder, 0 the safest.
        rows: answered there.
        exits: (num_stages,) of them at each stage.
        audited: rows that the last stage checked.
        agreement: their share with the last stage's own answer, weighted; None without any.
        low: lower end of its interval, and `high` the upper one, each ever wrong at any point with
            probability 1 % at most.
        high: see `low`.
        certified: the level that is promised, or None.
        exit_rates: beside those of the tune rows; None where these are not known.
    """

    point: int
    rows: int
    exits: tuple[int, ...]
    audited: int
    agreement: float | None
    low: float
    high: float
    certified: float | None
    exit_rates: ShareComparison | None


@dataclass(frozen=True)
class Alarm:
    """An alarm.

    Attributes:
        kind: what about.
        point: the operating point; None for confidences, which do not depend on it.
        seconds: since the watch began, when it was first raised, and `last_seconds` when last.
        rows: answered in all until it was first raised.
        times: how often it was raised; over all time it is raised once.
        last_seconds: see `seconds`.
    """

    kind: AlarmKind
    point: int | None
    seconds: float
    rows: int
    times: int
    last_seconds: float


@dataclass(frozen=True)
class RateChange:
    """The audit's rate was changed: `seconds` since the watch began, and the `rate` since then."""

    seconds: float
    rate: float


@dataclass(frozen=True)
class MonitorState:
    """What the watch has seen.

    Attributes:
        rows: answered in all.
        points: operating points that were used, from safest to fastest.
        confidences: of the first stage; None where those of the tune rows are not known.
        breaches: in the order in which they were first raised.
        rate: of the audit, in force.
        changes: the last 100 of its changes.
        notices: what is not watched, and why.
    """

    rows: int
    points: tuple[PointState, ...]
    confidences: ShareComparison | None
    breaches: tuple[Alarm, ...]
    rate: float
    changes: tuple[RateChange, ...]
    notices: tuple[str, ...]


def reference_of(cascade: Cascade) -> Reference:
    """What a saved cascade says of itself; nothing where its thresholds are not certified to hold here."""
    spec, stages = cascade.spec, len(cascade.stages)
    if spec is None or cascade.uncertified_reason is not None:
        return Reference(stages)
    point = spec.operating_point
    expected, certificate = point.metrics, point.certificate
    rates: tuple[tuple[float, ...], ...] = ((),) if expected is None else (expected.exit_rates,)
    level = None
    if certificate is not None:
        rates = tuple(one.exit_rates for one in certified_operating_points(cascade))
        promised = [kept.guarantee for kept in certificate.guarantees]
        level = next((one.level for one in promised if one.name == "min_agreement"), None)
    return Reference(stages, level, rates, 0 if expected is None else expected.n, spec.calibration)
