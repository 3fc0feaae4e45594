"""Reference values and state of the quality monitor: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cascadebert.inference.cascade import Cascade
from cascadebert.server.operating_points import certified_operating_points
from cascadebert.types import Histogram

AlarmKind = Literal["agreement", "agreement_recent", "exit_rates", "confidences"]


@dataclass(frozen=True)
class Reference:
    """Values from tuning and certification that the traffic is compared with."""

    num_stages: int
    certified_level: float | None = None  # of agreement
    exit_rates: tuple[tuple[float, ...], ...] = (
        (),
    )  # by operating point: (num_stages,), or empty if unknown
    n: int = 0  # examples of the tuning set
    confidences: Histogram | None = None  # of the first stage on the tuning set

    @classmethod
    def from_cascade(cls, cascade: Cascade) -> Reference:
        """Build it from a saved cascade; it is empty if the thresholds do not hold here."""
        spec, num_stages = cascade.spec, len(cascade.stages)
        if spec is None or cascade.uncertified_reason is not None:
            return cls(num_stages)
        metrics, certificate = spec.operating_point.metrics, spec.operating_point.certificate
        exit_rates: tuple[tuple[float, ...], ...] = ((),) if metrics is None else (metrics.exit_rates,)
        level = None
        if certificate is not None:
            exit_rates = tuple(point.exit_rates for point in certified_operating_points(cascade))
            guarantees = [result.guarantee for result in certificate.guarantees]
            level = next((g.level for g in guarantees if g.name == "min_agreement"), None)
        return cls(num_stages, level, exit_rates, 0 if metrics is None else metrics.n, spec.calibration)


@dataclass(frozen=True)
class ShareComparison:
    """Cumulative fractions of the traffic beside those of the tuning set.

    Fraction i is that of texts that exited at stage i or before, or whose confidence is at most edge i.
    """

    reference: tuple[float, ...]  # (k,) on the tuning set
    recent: tuple[float, ...]  # (k,) of some 5,000 texts; empty without traffic
    tolerance: tuple[float, ...]  # (k,) largest difference that is no alarm
    texts: int  # compared so far


@dataclass(frozen=True)
class PointState:
    """Traffic and agreement at one operating point; 0 is the most conservative."""

    index: int
    exits: tuple[int, ...]  # (num_stages,) texts by the stage of their exit
    shadow_evaluations: int
    agreement: float | None  # weighted fraction of evaluated texts with the last stage's prediction
    ci_lower: float  # each end is ever wrong, at any operating point, with probability at most 1 %
    ci_upper: float
    certified_level: float | None
    exit_rates: ShareComparison | None  # None if those of the tuning set are unknown


@dataclass(frozen=True)
class Alarm:
    """An alarm and its repetitions; times are seconds since the monitor started."""

    kind: AlarmKind
    operating_point: int | None  # None for confidences, which do not depend on it
    texts: int  # predicted before the first alarm
    first_seconds: float
    last_seconds: float
    count: int = 1  # stays 1 for "agreement", which is over all time


@dataclass(frozen=True)
class RateChange:
    """A change of the shadow rate, in seconds since the monitor started."""

    seconds: float
    shadow_rate: float


@dataclass(frozen=True)
class MonitorState:
    """State of the quality monitor."""

    texts: int  # predicted in all
    operating_points: tuple[PointState, ...]  # those in use so far, the most conservative first
    confidences: ShareComparison | None  # of the first stage; None if those of the tuning set are unknown
    alarms: tuple[Alarm, ...]  # in order of their first occurrence
    shadow_rate: float  # in force
    rate_changes: tuple[RateChange, ...]  # the last 100
    notices: tuple[str, ...]  # checks that are off, with the reason
