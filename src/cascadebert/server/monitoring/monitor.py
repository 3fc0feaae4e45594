"""The watch on the quality of a server, without labels.

Three things are watched. **Agreement** with the last stage, of a sample of all rows at each operating point,
against the level that the certificate promises: over all time (the probability of ever a false alarm, at any
point, is 1 % at most) and lately (between false alarms lie a million audited rows, on the mean, at the
least). **Exit rates** of each operating point, and **confidences** of the first stage, against those of the
rows that thresholds were picked on: between false alarms lie a million blocks of 256 rows, unless those rows
are one of the samples, 1 % at most, that lie further off than their band. All of it holds for traffic of
which each row, given those before it, is a draw from what was promised.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import replace

import numpy as np

from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.drift import ShareDriftDetector, band
from cascadebert.server.monitoring.sequential_tests import Detector, Tally, confidence_sequence, log_capital
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
LOWERED = ((0.5, 1 / 2), (0.625, 1 / 4), (0.75, 1 / 8), (0.875, 0.0))
RESTORED = 0.25
MOST_CHANGES = 100


class _Point:
    """What is kept of one operating point."""

    def __init__(self, reference: Reference, point: int) -> None:
        self.tally, self.alpha, self.broken = Tally(), 0.0, False
        self.exits = np.zeros(reference.num_stages, dtype=np.int64)
        self.level = reference.level
        self.recent = None if self.level is None else _detector(1 - self.level)
        rates = reference.exit_rates[point]
        known = bool(rates) and reference.n > 0 and reference.num_stages > 1
        self.rates = _exit_shares(rates, reference.n) if known else None

    def left(self, exits: Ints, rows: int) -> bool:
        self.exits += exits
        return self.rates is not None and self.rates.add(exits, rows)

    def audited(self, lost: bool, weight: float) -> list[AlarmKind]:
        self.tally = self.tally.plus(lost, weight)
        if self.level is None or self.recent is None:
            return []
        found = list[AlarmKind]()
        if self.recent.step(np.array([float(lost)]), 1, weight):
            found.append("recent agreement")
        refuted = log_capital(self.tally, 1 - self.level, above=True) >= -np.log(self.alpha)
        if refuted and not self.broken:
            self.broken = True
            found.append("agreement")
        return found


def _detector(share: float) -> Detector:
    return Detector(np.array([share]), np.array([True]), RUN_LENGTH)


def _exit_shares(rates: tuple[float, ...], n: int) -> ShareDriftDetector:
    """The bands of all stages are wrong with probability ALPHA; the first's holds for its histogram too."""
    inner = len(rates) - 1
    bands = [band(n, stage, ALPHA / inner) for stage in range(1, inner + 1)]
    return ShareDriftDetector(np.array(rates), np.array(bands), RUN_LENGTH)


def _confidence_shares(reference: Reference) -> ShareDriftDetector | None:
    found = reference.confidences
    if found is None:
        return None
    counts = np.array(found.counts, dtype=np.float64)
    slack = band(int(counts.sum()), 1, ALPHA / max(reference.num_stages - 1, 1))
    return ShareDriftDetector(counts, np.full(len(found.edges), slack), RUN_LENGTH)


class QualityMonitor:
    """Takes in every answered row and every audited one; any thread may call anything.

    Rows of requests that asked for another last stage, or that were answered for want of one, are outside of
    what is certified: they are not reported here. An audited row is one that was drawn at arrival: where it
    left early the last stage is run on it later, where the last stage answered it agrees with itself. Both
    have to be reported in one line (`Turns`), in an order that has nothing to do with where rows left.

    Args:
        reference: from `reference_of`.
        settings: of the server.
    """

    def __init__(self, reference: Reference, settings: ServerConfig) -> None:
        self._reference, self._settings = reference, settings
        self._lock = threading.Lock()
        self._random = np.random.default_rng(settings.seed)
        self._start = now()
        self._rate = self._next_rate = settings.shadow_rate
        self._weight = 1 / settings.shadow_rate if settings.shadow_rate else 1.0
        self._changes = deque[RateChange](maxlen=MOST_CHANGES)
        self._points: dict[int, _Point] = {}
        self._judged = 0
        self._rows = 0
        self._breaches: dict[tuple[AlarmKind, int | None], Alarm] = {}
        self._confidences = _confidence_shares(reference)
        self._edges = np.array(() if reference.confidences is None else reference.confidences.edges)
        self._intervals: dict[int, tuple[Tally, tuple[float, float]]] = {}

    def sample_arrivals(self, n: int) -> Bools:
        """(n,) which of the rows that arrive are to be audited."""
        with self._lock:
            if self._next_rate != self._rate:
                self._rate = self._next_rate
                self._weight = 1 / self._rate if self._rate else self._weight
                self._changes.append(RateChange(now() - self._start, self._rate))
            return np.asarray(self._random.random(n) < self._rate)

    def weight(self) -> float:
        """Inverse of the rate at which the last rows that arrived were drawn, to be kept with them."""
        return self._weight

    def record_exits(self, point: int, stages: Ints, confidences: Floats) -> None:
        """Take in the answered rows of a request.

        Args:
            point: of the ladder, that they were answered at.
            stages: (n,) that answered, from 1.
            confidences: (n,) of the first stage.
        """
        exits = np.bincount(stages - 1, minlength=self._reference.num_stages)
        bins = bin_counts(confidences, self._edges)
        new: list[Alarm | None] = []
        with self._lock:
            self._rows += len(stages)
            if self._at(point).left(exits, len(stages)):
                new.append(self._breach("exit rates", point))
            if self._confidences is not None and self._confidences.add(bins, len(stages)):
                new.append(self._breach("confidences", None))
        _say(new)

    def record_shadow_result(self, point: int, agreed: bool, weight: float) -> None:
        """Take in an audited row.

        Args:
            point: that it was answered at.
            agreed: whether its answer is the last stage's own.
            weight: kept with it at arrival.
        """
        with self._lock:
            here = self._at(point)
            if not here.tally.n:  # points share ALPHA by the order in which they are first audited
                self._judged += 1
                here.alpha = ALPHA / (self._judged * (self._judged + 1))
            kinds = here.audited(not agreed, weight * self._settings.shadow_rate)
            new = [self._breach(kind, point) for kind in kinds]
        _say(new)

    def report_backlog(self, waiting: int) -> None:
        """Lower the rate as the audit's queue fills, and restore it when three quarters of it are free.

        The change takes effect with the next rows that arrive. At seven eighths nothing is drawn any more.

        Args:
            waiting: rows that were drawn and are not reported yet.
        """
        fill, base = waiting / self._settings.shadow_queue_size, self._settings.shadow_rate
        wanted = min([base * share for least, share in LOWERED if fill >= least], default=base)
        with self._lock:
            self._next_rate = base if fill <= RESTORED else min(wanted, self._next_rate)

    def wants_safest_point(self) -> bool:
        """Whether an alarm was raised and the server is set to move to its safest point then."""
        return bool(self._breaches) and self._settings.on_alarm == "safest-point"

    def state(self) -> MonitorState:
        """What was seen so far."""
        with self._lock:
            seen = [(place, self._points[place]) for place in sorted(self._points)]
            held = [(place, one.tally, one.alpha) for place, one in seen]
            points = [_point_state(place, one) for place, one in seen]
            found = MonitorState(
                rows=self._rows,
                points=(),
                confidences=_finding(self._confidences),
                breaches=tuple(self._breaches.values()),
                rate=self._rate,
                changes=tuple(self._changes),
                notices=self._notices(),
            )
        ends = [self._interval(*one) for one in held]
        known = [replace(one, low=low, high=high) for one, (low, high) in zip(points, ends, strict=True)]
        return replace(found, points=tuple(known))

    def _interval(self, place: int, tally: Tally, alpha: float) -> tuple[float, float]:
        """Of agreement; it takes a millisecond, so it is kept while no row is added."""
        known = self._intervals.get(place)
        if known is None or known[0] is not tally:
            low, high = confidence_sequence(tally, alpha) if tally.n else (0.0, 1.0)
            known = self._intervals[place] = tally, (1 - high, 1 - low)
        return known[1]

    def _at(self, point: int) -> _Point:
        if point not in self._points:
            self._points[point] = _Point(self._reference, point)
        return self._points[point]

    def _breach(self, kind: AlarmKind, point: int | None) -> Alarm | None:
        """Record an alarm; returned if it is to be said: the first, and then each time they have doubled."""
        at, known = now() - self._start, self._breaches.get((kind, point))
        if known is None:
            found = Alarm(kind, point, at, self._rows, 1, at)
        else:
            found = replace(known, times=known.times + 1, last_seconds=at)
        self._breaches[kind, point] = found
        return found if found.times & (found.times - 1) == 0 else None

    def _notices(self) -> tuple[str, ...]:
        said = []
        if self._reference.level is None:
            said.append("no agreement certified: it is measured, and there is no alarm")
        if self._confidences is None:
            said.append("no calibration stored: confidences are not compared")
        if not self._reference.n:
            said.append("no exit rates stored: they are not compared")
        return tuple(said)


def _point_state(place: int, one: _Point) -> PointState:
    return PointState(
        point=place,
        rows=int(one.exits.sum()),
        exits=tuple(one.exits.tolist()),
        audited=one.tally.n,
        agreement=1 - one.tally.share if one.tally.n else None,
        low=0.0,
        high=1.0,
        certified=one.level,
        exit_rates=_finding(one.rates),
    )


def _finding(shares: ShareDriftDetector | None) -> ShareComparison | None:
    if shares is None:
        return None
    calibrated, lately, allowed = (
        tuple(one.tolist()) for one in (shares.calibrated, shares.lately(), shares.allowed)
    )
    return ShareComparison(calibrated, lately, allowed, shares.seen)


def _say(new: list[Alarm | None]) -> None:
    for one in new:
        if one is not None:
            where = "" if one.point is None else f" at operating point {one.point}"
            log.warning("alarm: %s%s; %d so far, first after %d rows", one.kind, where, one.times, one.rows)
