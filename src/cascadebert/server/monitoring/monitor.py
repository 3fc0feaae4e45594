"""Monitor of the quality of a running server, without labels.

**Agreement** with the last stage, on a sample of the texts at each operating point, is tested against the
certified level: over all time (the probability of ever a false alarm, at any point, is at most 1 %) and
recently (at least a million evaluated texts between false alarms, on average). **Exit rates** of each
operating point and **confidences** of the first stage are compared with those of the tuning set: at least a
million blocks of 256 texts between false alarms, unless the tuning set is one of the samples, at most 1 %,
that lie outside their band. All of it holds for traffic in which each text, given those before it, is drawn
as certified.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.drift import ShareComparison, ShareDriftDetector, dkw_band
from cascadebert.server.monitoring.sequential_tests import (
    EDetector,
    LossCounts,
    confidence_sequence,
    log_capital,
)
from cascadebert.server.operating_points import certified_operating_points
from cascadebert.thresholds.confidence import bin_counts
from cascadebert.timing import now
from cascadebert.types import Bools, Floats, Histogram, Ints

AlarmKind = Literal["agreement", "agreement_recent", "exit_rates", "confidences"]

ALPHA = 0.01
RATE_FACTORS = ((0.5, 1 / 2), (0.625, 1 / 4), (0.75, 1 / 8), (0.875, 0.0))  # (fill of the queue, factor)
RESTORE_BELOW = 0.25
MAX_RATE_CHANGES = 100

log = logging.getLogger("cascadebert")


@dataclass(frozen=True)
class Reference:
    """Values from tuning and certification that the traffic is compared with."""

    num_stages: int
    certified_level: float | None = None  # of agreement
    exit_rates: tuple[tuple[float, ...], ...] = ((),)  # by operating point: (num_stages,), () if unknown
    n: int = 0  # examples of the tuning set
    confidences: Histogram | None = None  # of the first stage on the tuning set

    @classmethod
    def from_cascade(cls, cascade: Cascade) -> Reference:
        """Build it from a saved cascade; it is empty if the thresholds do not hold here."""
        spec, num_stages = cascade.spec, len(cascade.stages)
        if spec is None or cascade.uncertified_reason is not None:
            return cls(num_stages)
        metrics, certificate = cascade.operating_point.metrics, cascade.operating_point.certificate
        exit_rates = tuple(point.exit_rates for point in certified_operating_points(cascade))
        guarantees = [] if certificate is None else [result.guarantee for result in certificate.guarantees]
        level = next((g.level for g in guarantees if g.name == "min_agreement"), None)
        if metrics is None:
            return cls(num_stages, level, exit_rates or ((),), 0, spec.calibration)
        return cls(num_stages, level, exit_rates or (metrics.exit_rates,), metrics.n, spec.calibration)


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
    count: int  # stays 1 for "agreement", which is over all time


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


class _Point:
    # Counts and detectors of one operating point.

    def __init__(self, reference: Reference, index: int) -> None:
        level, rates = reference.certified_level, reference.exit_rates[index]
        self.exits = np.zeros(reference.num_stages, dtype=np.int64)
        self.counts, self.alpha = LossCounts(), ALPHA
        losses = np.array([] if level is None else [1 - level])
        self.recent = EDetector(losses, losses > 0)
        self.exit_rates: ShareDriftDetector | None = None
        if rates and reference.n > 0 and reference.num_stages > 1:
            # All bands together fail with probability ALPHA; the first stage's also covers its confidences.
            inner = len(rates) - 1
            bands = [dkw_band(reference.n, stage, ALPHA / inner) for stage in range(1, inner + 1)]
            self.exit_rates = ShareDriftDetector(np.array(rates), np.array(bands))

    def state(self, index: int, level: float | None) -> PointState:
        low, high = confidence_sequence(self.counts, self.alpha)
        return PointState(
            index=index,
            exits=tuple(self.exits.tolist()),
            shadow_evaluations=self.counts.n,
            agreement=1 - self.counts.rate if self.counts.n else None,
            ci_lower=1 - high,
            ci_upper=1 - low,
            certified_level=level,
            exit_rates=_comparison(self.exit_rates),
        )


class QualityMonitor:
    """Records exits and shadow evaluations, and raises alarms; every method is thread-safe.

    Texts of requests with a `max_stage`, and degraded ones, are not covered by the certificate and must not
    be recorded. Texts are sampled for shadow evaluation on arrival: the last stage runs later on those that
    exited early, and agrees with itself on those that it predicted. Both must be recorded in one order that
    does not depend on where texts exited (`OrderedReporter`).
    """

    def __init__(self, reference: Reference, config: ServerConfig) -> None:
        self._reference, self._config = reference, config
        self._lock = threading.Lock()
        self._random = np.random.default_rng(config.seed)
        self._start = now()
        self._rate = self._next_rate = config.shadow_rate
        self._rate_changes = deque[RateChange](maxlen=MAX_RATE_CHANGES)
        self._points: dict[int, _Point] = {}
        self._texts = 0
        self._alarms: dict[tuple[AlarmKind, int | None], Alarm] = {}
        self._confidences: ShareDriftDetector | None = None
        if reference.confidences is not None:
            self._edges = np.array(reference.confidences.edges)
            counts = np.array(reference.confidences.counts, dtype=np.float64)
            band = dkw_band(int(counts.sum()), 1, ALPHA / max(reference.num_stages - 1, 1))
            self._confidences = ShareDriftDetector(counts, np.full(len(counts) - 1, band))

    def sample_arrivals(self, n: int) -> tuple[Bools, float]:
        """Select arriving texts for shadow evaluation; return (n,) selected, and their weight.

        The weight is the inverse of the rate at which they are selected, and must be recorded with them.
        """
        with self._lock:
            if self._next_rate != self._rate:
                self._rate = self._next_rate
                self._rate_changes.append(RateChange(now() - self._start, self._rate))
            return self._random.random(n) < self._rate, 1 / self._rate if self._rate else 0.0

    def record_exits(self, index: int, stages: Ints, confidences: Floats) -> None:
        """Record the texts of a request at operating point `index`.

        `stages`, (n,), are those of the exits, counted from 1; `confidences`, (n,), those of the first stage.
        """
        n, exits = len(stages), np.bincount(stages - 1, minlength=self._reference.num_stages)
        with self._lock:
            self._texts += n
            point = self._point(index)
            point.exits += exits
            if point.exit_rates is not None and point.exit_rates.add(exits, n):
                self._raise_alarm("exit_rates", index)
            if self._confidences is not None:
                if self._confidences.add(bin_counts(confidences, self._edges), n):
                    self._raise_alarm("confidences", None)

    def record_shadow_result(self, index: int, agreed: bool, weight: float) -> None:
        """Record if the last stage agreed with a prediction at operating point `index`, with its `weight`."""
        weight *= self._config.shadow_rate  # in units of the smallest weight
        level = self._reference.certified_level
        with self._lock:
            point = self._point(index)
            if not point.counts.n:  # points share ALPHA in the order of their first evaluation
                order = 1 + sum(known.counts.n > 0 for known in self._points.values())
                point.alpha = ALPHA / (order * (order + 1))
            point.counts = point.counts.add(not agreed, weight)
            if point.recent.step(np.array([float(not agreed)]), 1, weight):
                self._raise_alarm("agreement_recent", index)
            if level is not None and ("agreement", index) not in self._alarms:
                if log_capital(point.counts, 1 - level, above=True) >= -np.log(point.alpha):
                    self._raise_alarm("agreement", index)

    def report_backlog(self, size: int) -> None:
        """Lower the rate as the shadow queue fills; restore it when three quarters of the queue are free.

        The change takes effect with the next arrivals. At seven eighths nothing is sampled any more.
        """
        fill, base = size / self._config.shadow_queue_size, self._config.shadow_rate
        lowered = min([base * factor for least, factor in RATE_FACTORS if fill >= least], default=base)
        with self._lock:
            self._next_rate = base if fill <= RESTORE_BELOW else min(lowered, self._next_rate)

    def wants_safest_point(self) -> bool:
        """True after an alarm if the server is configured to switch to its most conservative point then."""
        return bool(self._alarms) and self._config.on_alarm == "safest-point"

    def state(self) -> MonitorState:
        """Return a consistent snapshot."""
        level = self._reference.certified_level
        with self._lock:
            return MonitorState(
                texts=self._texts,
                operating_points=tuple(point.state(i, level) for i, point in sorted(self._points.items())),
                confidences=_comparison(self._confidences),
                alarms=tuple(self._alarms.values()),
                shadow_rate=self._rate,
                rate_changes=tuple(self._rate_changes),
                notices=_notices(self._reference),
            )

    def _point(self, index: int) -> _Point:
        if index not in self._points:
            self._points[index] = _Point(self._reference, index)
        return self._points[index]

    def _raise_alarm(self, kind: AlarmKind, index: int | None) -> None:
        seconds = now() - self._start
        alarm = self._alarms.get((kind, index)) or Alarm(kind, index, self._texts, seconds, seconds, 0)
        self._alarms[kind, index] = alarm = replace(alarm, count=alarm.count + 1, last_seconds=seconds)
        if alarm.count & (alarm.count - 1) == 0:  # an alarm that goes on is logged whenever its count doubles
            point = "" if index is None else f" at operating point {index}"
            message = "alarm: %s%s; raised %d times so far, first after %d texts"
            log.warning(message, kind, point, alarm.count, alarm.texts)


def _comparison(detector: ShareDriftDetector | None) -> ShareComparison | None:
    return None if detector is None else detector.comparison()


def _notices(reference: Reference) -> tuple[str, ...]:
    notices = (
        (reference.certified_level is None, "no agreement certified: it is measured, without alarms"),
        (reference.confidences is None, "no calibration stored: confidences are not compared"),
        (not reference.n, "no exit rates stored: they are not compared"),
    )
    return tuple(notice for applies, notice in notices if applies)
