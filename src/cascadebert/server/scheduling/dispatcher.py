"""Batch dispatcher: texts in, futures out, over pooled queues and worker threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Thread

from cascadebert.errors import DataError
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.stage import Stage
from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.monitor import QualityMonitor
from cascadebert.server.operating_points import LoadState, certified_operating_points, next_state
from cascadebert.server.scheduling.batching_plan import (
    BatchingPlan,
    StagePlan,
    autotune,
    probe_batch,
    warm_up,
)
from cascadebert.server.scheduling.request_tracker import RequestTracker
from cascadebert.server.scheduling.requests import Request
from cascadebert.server.scheduling.worker_pool import TICK, WorkerPool, failure_reason
from cascadebert.server.types import (
    DispatcherState,
    RequestOptions,
    RequestResult,
    ServiceUnavailable,
    StageState,
)
from cascadebert.timing import now
from cascadebert.types import Texts

log = logging.getLogger(__name__)

FIRST_CALL_SECONDS = 120.0  # a stage may compile itself during its first batch
SWITCH_FRACTION = 0.5  # of the admission limit; a longer delay switches to a faster operating point


class BatchDispatcher:
    """Runs a cascade on the texts of many concurrent requests.

    Texts of all requests share batches of one padded length, so each result is the one that `Cascade.predict`
    gives. `clock` returns seconds.
    """

    def __init__(
        self,
        cascade: Cascade,
        config: ServerConfig,
        *,
        monitor: QualityMonitor | None = None,
        clock: Callable[[], float] = now,
    ) -> None:
        self._cascade, self._config, self._monitor, self._clock = cascade, config, monitor, clock
        self._uncertified_reason = cascade.uncertified_reason
        if self._uncertified_reason is None and cascade.operating_point.certificate is None:
            self._uncertified_reason = "this cascade has no certificate"
        own = cascade.operating_point.thresholds
        points = certified_operating_points(cascade)
        self._operating_points = tuple(point.thresholds for point in points) or (own,)
        known = own in self._operating_points and not config.adaptive
        self._load_state = LoadState(self._operating_points.index(own) if known else 0)
        self._accepting = False
        self._reported_backlog = 0
        self._set_plan(BatchingPlan(1, (StagePlan(),) * len(cascade.stages)))

    def _set_plan(self, plan: BatchingPlan) -> None:
        self._plan = plan
        self._tracker = RequestTracker(self._cascade, plan, self._config, self._monitor)
        self._pool = WorkerPool(self._cascade, plan, self._config, self._tracker, self._clock)

    def start(self) -> None:
        """Measure the batching plan, warm up the stages, and start to accept requests.

        A stage that fails is down from the start, and probed from time to time.
        """
        stages = self._cascade.stages
        reasons = [_first_call(stage) for stage in stages]
        up = [reason is None for reason in reasons]
        plan = autotune(stages, up, latency_target=self._config.latency_target)
        for stage, stage_plan, reason in zip(stages, plan.stages, reasons, strict=True):
            if reason is None:
                warm_up(stage, stage_plan)
        self._set_plan(plan)
        for health, reason in zip(self._tracker.health, reasons, strict=True):
            health.reason, health.warmed_up = reason, reason is None
        self._pool.start(self._on_tick)
        self._accepting = True

    def submit(self, texts: Texts, options: RequestOptions = RequestOptions()) -> Future[RequestResult]:  # noqa: B008 - frozen
        """Submit texts, or pairs of texts, all of one kind.

        The future may also raise DeadlineExceeded, StageUnavailable, ServiceUnavailable (`drain` ended first)
        or DataError (a text has no tokens). If it is cancelled, its texts are dropped.

        Raises:
            DataError: if the texts or the options are invalid.
            Overloaded: if the queue is full, or the wait would be too long.
            StageUnavailable: if the first stage is down.
            ServiceUnavailable: before `start` and after `drain`.
        """
        characters = self._validate(texts, options)
        last = (options.max_stage or len(self._cascade.stages)) - 1
        seconds = self._config.default_deadline if options.deadline is None else options.deadline
        uncertified_reason = self._why_uncertified(options)
        with self._pool.lock:
            if not self._accepting:
                raise ServiceUnavailable("the server is starting or stopping")
            at = self._clock()
            self._adapt(at)
            point = self._load_state.operating_point
            if not len(texts):
                future: Future[RequestResult] = Future()
                future.set_result(RequestResult((), point, uncertified_reason))
                return future
            thresholds = self._operating_points[point]
            request = Request(
                texts, characters, last, at, at + seconds, point, thresholds, uncertified_reason
            )
            self._tracker.admit(request)
            self._pool.wake.notify()
        return request.future

    def drain(self, seconds: float) -> bool:
        """Accept nothing more, complete what is in flight, and stop.

        Requests that are open after so many seconds fail with ServiceUnavailable; False if there were any.
        Texts that still wait for shadow evaluation stay counted in `state`.
        """
        end = now() + seconds
        with self._pool.lock:
            self._accepting = False
            while self._has_work() and (left := end - now()) > 0:
                self._pool.idle.wait(min(left, TICK))
            completed = not self._tracker.requests
            for request in list(self._tracker.requests):
                self._tracker.end(
                    request, ServiceUnavailable("the server stopped before the result was complete")
                )
        self._pool.resolve_futures()
        self._pool.close(max(0.1, end - now()))
        return completed

    def state(self) -> DispatcherState:
        """A snapshot."""
        with self._pool.lock:
            tracker, stages = self._tracker, tuple(map(self._stage_state, range(len(self._cascade.stages))))
            return DispatcherState(
                ready=self._accepting and stages[0].up,
                operating_point=self._load_state.operating_point,
                operating_points=self._operating_points,
                uncertified_reason=self._uncertified_reason,
                switches=self._load_state.switches,
                estimated_delay=tracker.estimated_delay,
                admission_delay_limit=tracker.admission.seconds,
                inflight_texts=tracker.inflight,
                stages=stages,
                shadow_backlog=self._shadow_backlog,
                workers=self._plan.workers,
            )

    def _stage_state(self, number: int) -> StageState:
        tracker, queue = self._tracker, self._tracker.scheduler.queues[number]
        first, reason = queue.first(), tracker.health[number].reason
        age = 0.0 if first is None else self._clock() - first[1].entered
        name = self._cascade.stages[number].name
        return StageState(name, queue.size, age, reason is None, reason, tracker.exits[number])

    @property
    def _shadow_backlog(self) -> int:
        return 0 if self._tracker.shadow is None else self._tracker.shadow.unresolved

    def _has_work(self) -> bool:
        # shadow rows of a last stage that is down would wait for ever
        shadow = self._shadow_backlog > 0 and self._tracker.health[-1].reason is None
        return bool(self._tracker.requests) or shadow

    def _validate(self, texts: Texts, options: RequestOptions) -> int:
        """Validate a request; returns the number of characters."""
        if isinstance(texts, str):
            raise DataError("expected a list of texts (or of pairs), got one string: put it in a list")
        if len(texts) > self._config.max_queue_size:
            raise DataError(
                f"{len(texts)} texts in one request; at most {self._config.max_queue_size} fit the queue"
            )
        stage, count = options.max_stage, len(self._cascade.stages)
        if stage is not None and not 1 <= stage <= count:
            raise DataError(f"max_stage must be from 1 to {count}, the number of stages, not {stage}")
        if options.deadline is not None and options.deadline <= 0:
            raise DataError(f"the deadline must be a number of seconds above 0, not {options.deadline}")
        characters = _count_characters(texts)
        self._cascade.check_input_kind(texts)
        return characters

    def _why_uncertified(self, options: RequestOptions) -> str | None:
        reasons = []
        if self._uncertified_reason is not None:
            reasons.append(f"nothing is certified here: {self._uncertified_reason}")
        if options.max_stage is not None and options.max_stage < len(self._cascade.stages):
            reasons.append(f"the request set max_stage to {options.max_stage}")
        return "; ".join(reasons) or None

    def _on_tick(self, at: float) -> None:
        self._adapt(at)
        shadow = self._tracker.shadow
        if self._monitor is not None and shadow is not None and len(shadow) != self._reported_backlog:
            self._reported_backlog = len(shadow)
            self._monitor.report_backlog(self._reported_backlog)

    def _adapt(self, at: float) -> None:
        """Switch the operating point if the load or the monitor asks for it."""
        pinned = self._monitor is not None and self._monitor.wants_safest_point()
        if len(self._operating_points) == 1 or not (self._config.adaptive or pinned):
            return
        previous, delay = self._load_state.operating_point, self._tracker.estimated_delay
        limit = SWITCH_FRACTION * self._tracker.admission.seconds
        self._load_state = next_state(
            self._load_state, delay, at, points=len(self._operating_points), limit=limit, pinned=pinned
        )
        if self._load_state.operating_point != previous:
            log.info(
                "operating point %d -> %d of %d, at a delay of %.3f s%s",
                previous,
                self._load_state.operating_point,
                len(self._operating_points) - 1,
                delay,
                ", after an alarm of the quality monitor" if pinned else "",
            )


def _count_characters(texts: Sequence[object]) -> int:
    """The number of characters of all texts. Raises DataError if they are not all strings, or all pairs."""
    characters, kinds = 0, set[bool]()
    for number, text in enumerate(texts, start=1):
        parts = (text,) if isinstance(text, str) else text
        if not (
            isinstance(parts, (tuple, list))
            and len(parts) == 2 - isinstance(text, str)
            and all(isinstance(part, str) for part in parts)
        ):
            raise DataError(f"text {number}: expected a string or a pair of strings, got {text!r:.40}")
        kinds.add(isinstance(text, str))
        characters += sum(map(len, parts))
    if len(kinds) > 1:
        raise DataError("expected all texts, or all pairs of texts; got both")
    return characters


def _first_call(stage: Stage) -> str | None:
    """The reason why a stage does not run its first batch; None if it does."""
    reasons: list[str | None] = ["it did not respond"]

    def call() -> None:
        reasons[0] = failure_reason(partial(stage.run, probe_batch(stage)))

    thread = Thread(target=call, daemon=True)
    thread.start()
    thread.join(FIRST_CALL_SECONDS)
    return reasons[0]
