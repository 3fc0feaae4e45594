"""Worker threads over pooled queues: texts in, answers out, whatever the load and whatever breaks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread

from cascadebert.errors import DataError
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.stage import Stage
from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.monitor import QualityMonitor
from cascadebert.server.operating_points import LoadState, certified_operating_points, next_state
from cascadebert.server.scheduling.batching_plan import BatchingPlan, autotune, probe, warm_up
from cascadebert.server.scheduling.length_buckets import LengthBuckets
from cascadebert.server.scheduling.request_tracker import RequestTracker
from cascadebert.server.scheduling.worker_pool import TICK, WorkerPool
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

FIRST_CALL_SECONDS = 120.0
"""A stage may prepare itself during its first batch, as a compiled one does."""
FOLLOW_SHARE = 0.5
"""Of the delay at which requests are refused: above it a faster operating point is taken."""


class BatchDispatcher:
    """Answers texts by a cascade, many requests at a time.

    Rows of all requests share batches of one padded length, so a row's answer is the one that
    `Cascade.predict` gives it.

    Args:
        cascade: whose stages answer.
        settings: how to behave.
        watch: is told what is answered, and audits some of it.
        clock: gives the time in seconds.
    """

    def __init__(
        self,
        cascade: Cascade,
        settings: ServerConfig,
        *,
        monitor: QualityMonitor | None = None,
        clock: Callable[[], float] = now,
    ) -> None:
        self._cascade, self._settings, self._monitor, self._clock = cascade, settings, monitor, clock
        certificate = cascade.operating_point.certificate
        own = cascade.operating_point.thresholds
        self._uncertified = cascade.uncertified_reason
        if self._uncertified is None and certificate is None:
            self._uncertified = "this cascade has no certificate"
        self._ladder = tuple(point.thresholds for point in certified_operating_points(cascade)) or (own,)
        at = self._ladder.index(own) if own in self._ladder else 0
        self._following = LoadState(0 if settings.adaptive else at)
        self._accepting = False
        self._told = 0
        count = len(cascade.stages)
        self._use(BatchingPlan(1, (1,) * count, (0.0,) * count, (False,) * count, (LengthBuckets(),) * count))

    def _use(self, plan: BatchingPlan, whys: Sequence[str | None] = ()) -> None:
        self._plan = plan
        self._board = RequestTracker(self._cascade, plan, self._settings, self._monitor)
        for health, why in zip(self._board.health, whys, strict=False):
            health.why = why
        self._crew = WorkerPool(self._cascade, plan, self._settings, self._board, self._clock)

    def start(self) -> None:
        """Measure how the machine is best shared, warm every stage up, and start to answer.

        A stage that cannot be run is down from the start, and tried again from time to time.
        """
        stages = self._cascade.stages
        whys = [_first_call(stage) for stage in stages]
        up = [why is None for why in whys]
        plan = autotune(stages, up, latency_target=self._settings.latency_target)
        for number, stage in enumerate(stages):
            if up[number]:
                warm_up(stage, plan, number)
        self._use(plan, whys)
        self._crew.start(self._tick)
        self._accepting = True

    def submit(self, texts: Texts, options: RequestOptions = RequestOptions()) -> Future[RequestResult]:  # noqa: B008 - frozen
        """Have texts answered.

        Args:
            texts: n texts, or n pairs of texts.
            options: of this request.

        Returns:
            A future of the answer. It may also get Expired, StageDown, NotReady (a drain ended first) or
            DataError (a text has no tokens). Cancelled, its rows are dropped.

        Raises:
            DataError: if the texts or the options cannot be used.
            Overloaded: if there is no room, or the wait would be too long.
            StageDown: if the first stage does not answer.
            NotReady: before `start` and after `drain`.
        """
        characters = self._checked(texts, options)
        with self._crew.lock:
            if not self._accepting:
                raise ServiceUnavailable("the server is starting or stopping")
            at = self._clock()
            self._follow(at)
            point = self._following.operating_point
            if not len(texts):
                answer: Future[RequestResult] = Future()
                answer.set_result(RequestResult((), point, self._outside(options)))
                return answer
            request = self._board.admit(
                texts,
                characters,
                options,
                at,
                point=point,
                thresholds=self._ladder[point],
                outside=self._outside(options),
            )
            self._crew.wake.notify()
        return request.future

    def drain(self, seconds: float) -> bool:
        """Accept nothing more, answer all that is in flight, and stop.

        Args:
            seconds: after which what is still open gets NotReady.

        Returns:
            Whether every request was answered. Audited rows that the last stage has not seen by then stay
            counted in `state`.
        """
        until = now() + seconds
        with self._crew.lock:
            self._accepting = False
            while self._open() and (left := until - now()) > 0:
                self._crew.quiet.wait(min(left, TICK))
            answered = not self._board.requests
            for request in list(self._board.requests.values()):
                self._board.end(request, ServiceUnavailable("the server stopped before an answer was there"))
        self._crew.settle()
        self._crew.close(max(0.1, until - now()))
        return answered

    def state(self) -> DispatcherState:
        """How everything is just now."""
        with self._crew.lock:
            board, at = self._board, self._clock()
            stages = []
            for number, stage in enumerate(self._cascade.stages):
                queue, why = board.schedule.queues[number], board.health[number].why
                first = queue.first()
                delay = 0.0 if first is None else at - first[1].entered
                stages.append(
                    StageState(stage.name, queue.waiting, delay, why is None, why, board.exits[number])
                )
            return DispatcherState(
                ready=self._accepting and stages[0].up,
                operating_point=self._following.operating_point,
                operating_points=self._ladder,
                uncertified_reason=self._uncertified,
                switches=self._following.switches,
                estimated_delay=board.delay,
                admission_delay_limit=board.limit.seconds,
                inflight_texts=board.rows,
                stages=tuple(stages),
                shadow_backlog=0 if board.audits is None else board.audits.open,
                workers=self._plan.workers,
            )

    def _checked(self, texts: Texts, options: RequestOptions) -> int:
        """How many characters there are."""
        if isinstance(texts, str):
            raise DataError("expected a list of texts (or of pairs), got one string: put it in a list")
        if len(texts) > self._settings.max_queue_size:
            raise DataError(f"{len(texts)} texts in one request; at most {self._settings.max_queue_size}")
        latest = options.max_stage
        if latest is not None and not 1 <= latest <= len(self._cascade.stages):
            raise DataError(f"max_stage is from 1 to {len(self._cascade.stages)}, not {latest}")
        if options.deadline is not None and options.deadline <= 0:
            raise DataError(f"a deadline is a number of seconds above 0, not {options.deadline}")
        total, kinds = 0, set[int]()
        for place, text in enumerate(texts, start=1):
            parts = (text,) if isinstance(text, str) else tuple(text)
            if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
                raise DataError(f"text {place}: expected a string or a pair of strings, got {text!r:.40}")
            kinds.add(len(parts))
            total += sum(map(len, parts))
        if len(kinds) > 1:
            raise DataError("expected all texts, or all pairs of texts; got both")
        self._cascade.check_input_kind(texts)
        return total

    def _outside(self, options: RequestOptions) -> str | None:
        said = [] if self._uncertified is None else [f"nothing is certified here: {self._uncertified}"]
        if options.max_stage is not None and options.max_stage < len(self._cascade.stages):
            said.append(f"stage {options.max_stage} was asked to answer at the latest")
        return "; ".join(said) or None

    def _tick(self, at: float) -> None:
        self._follow(at)
        audits = self._board.audits
        if self._monitor is not None and audits is not None and audits.untold != self._told:
            self._told = audits.untold
            self._monitor.report_backlog(self._told)

    def _follow(self, at: float) -> None:
        """Move along the ladder, if the load or the watch asks for it."""
        pinned = self._monitor is not None and self._monitor.wants_safest_point()
        if len(self._ladder) == 1 or not (self._settings.adaptive or pinned):
            return
        before, delay = self._following, self._board.delay
        self._following = next_state(
            before,
            delay,
            at,
            points=len(self._ladder),
            limit=FOLLOW_SHARE * self._board.limit.seconds,
            pinned=pinned,
        )
        if self._following.operating_point != before.operating_point:
            log.info(
                "operating point %d -> %d of %d, at a delay of %.3f s%s",
                before.operating_point,
                self._following.operating_point,
                len(self._ladder) - 1,
                delay,
                ", asked for by the watch" if pinned else "",
            )

    def _open(self) -> bool:
        """Whether a drain has anything left to wait for."""
        audits = 0 if self._board.audits is None else self._board.audits.open
        return bool(self._board.requests or (audits and self._board.health[-1].why is None))


def _first_call(stage: Stage) -> str | None:
    """What is wrong with a stage before the first request; None where nothing is."""
    said = ["it did not answer"]

    def call() -> None:
        try:
            stage.run(probe(stage))
            said.clear()
        except Exception as error:  # an engine may raise anything
            said[0] = f"it raised {type(error).__name__}: {error}"

    thread = Thread(target=call, daemon=True)
    thread.start()
    thread.join(FIRST_CALL_SECONDS)
    return said[0] if said else None
