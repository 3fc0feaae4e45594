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
from dataclasses import replace

import numpy as np

from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.drift import ShareDriftDetector, dkw_band
from cascadebert.server.monitoring.sequential_tests import (
    EDetector,
    LossCounts,
    confidence_sequence,
    log_capital,
)
from cascadebert.server.monitoring.state import (
    Alarm,
    AlarmKind,
    MonitorState,
    PointState,
    RateChange,
    Reference,
    ShareComparison,
)
from cascadebert.thresholds.confidence import bin_counts
from cascadebert.timing import now
from cascadebert.types import Bools, Floats, Ints

log = logging.getLogger("cascadebert")
ALPHA = 0.01
RUN_LENGTH = 1_000_000.0
RATE_FACTORS = ((0.5, 1 / 2), (0.625, 1 / 4), (0.75, 1 / 8), (0.875, 0.0))  # (fill of the queue, factor)
RESTORE_BELOW = 0.25
MAX_RATE_CHANGES = 100


class _Point:
    # Counts and detectors of one operating point.

    def __init__(self, reference: Reference, index: int) -> None:
        level, rates = reference.certified_level, reference.exit_rates[index]
        self.exits = np.zeros(reference.num_stages, dtype=np.int64)
        self.counts, self.alpha = LossCounts(), ALPHA
        self.recent = self.exit_rates = None
        if level is not None:
            self.recent = EDetector(np.array([1 - level]), np.array([True]), RUN_LENGTH)
        if rates and reference.n > 0 and reference.num_stages > 1:
            # All bands together fail with probability ALPHA; the first stage's also covers its confidences.
            inner = len(rates) - 1
            bands = [dkw_band(reference.n, stage, ALPHA / inner) for stage in range(1, inner + 1)]
            self.exit_rates = ShareDriftDetector(np.array(rates), np.array(bands), RUN_LENGTH)

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


def _confidence_detector(reference: Reference) -> ShareDriftDetector | None:
    if reference.confidences is None:
        return None
    counts = np.array(reference.confidences.counts, dtype=np.float64)
    width = dkw_band(int(counts.sum()), 1, ALPHA / max(reference.num_stages - 1, 1))
    return ShareDriftDetector(counts, np.full(len(counts) - 1, width), RUN_LENGTH)


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
        self._weight = 1 / config.shadow_rate if config.shadow_rate else 1.0
        self._rate_changes = deque[RateChange](maxlen=MAX_RATE_CHANGES)
        self._points: dict[int, _Point] = {}
        self._texts = 0
        self._alarms: dict[tuple[AlarmKind, int | None], Alarm] = {}
        self._confidences = _confidence_detector(reference)
        self._edges = np.array(() if reference.confidences is None else reference.confidences.edges)

    def sample_arrivals(self, n: int) -> Bools:
        """(n,) true for the arriving texts that are selected for shadow evaluation."""
        with self._lock:
            if self._next_rate != self._rate:
                self._rate = self._next_rate
                self._weight = 1 / self._rate if self._rate else self._weight
                self._rate_changes.append(RateChange(now() - self._start, self._rate))
            return np.asarray(self._random.random(n) < self._rate)

    def weight(self) -> float:
        """Inverse of the rate at which the last arrivals were sampled, to be stored with them."""
        return self._weight

    def record_exits(self, index: int, stages: Ints, confidences: Floats) -> None:
        """Record the texts of a request at operating point `index`.

        `stages`, (n,), are those of the exits, counted from 1; `confidences`, (n,), those of the first stage.
        """
        n, exits = len(stages), np.bincount(stages - 1, minlength=self._reference.num_stages)
        bins = bin_counts(confidences, self._edges)
        with self._lock:
            self._texts += n
            point = self._point(index)
            point.exits += exits
            if point.exit_rates is not None and point.exit_rates.add(exits, n):
                self._raise_alarm("exit_rates", index)
            if self._confidences is not None and self._confidences.add(bins, n):
                self._raise_alarm("confidences", None)

    def record_shadow_result(self, index: int, agreed: bool, weight: float) -> None:
        """Record if the last stage agreed with a prediction at operating point `index`, with its `weight`."""
        weight *= self._config.shadow_rate
        with self._lock:
            point = self._point(index)
            if not point.counts.n:  # points share ALPHA in the order of their first evaluation
                order = 1 + sum(known.counts.n > 0 for known in self._points.values())
                point.alpha = ALPHA / (order * (order + 1))
            point.counts = point.counts.add(not agreed, weight)
            if point.recent is None or self._reference.certified_level is None:
                return
            if point.recent.step(np.array([float(not agreed)]), 1, weight):
                self._raise_alarm("agreement_recent", index)
            if ("agreement", index) not in self._alarms:
                capital = log_capital(point.counts, 1 - self._reference.certified_level, above=True)
                if capital >= -np.log(point.alpha):
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
        seconds, alarm = now() - self._start, self._alarms.get((kind, index))
        if alarm is None:
            alarm = Alarm(kind, index, self._texts, seconds, seconds)
        else:
            alarm = replace(alarm, count=alarm.count + 1, last_seconds=seconds)
        self._alarms[kind, index] = alarm
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
