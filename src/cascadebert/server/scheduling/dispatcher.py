"""Runs a cascade on the texts of concurrent requests: texts in, futures out.

All threads and locks are here. `Scheduler` forms the batches; `RequestTracker` admits, rejects and completes
requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Condition, Event, Lock, Thread, current_thread
from typing import Any

from cascadebert.errors import DataError
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.stage import Stage
from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.monitor import QualityMonitor
from cascadebert.server.scheduling.autotune import (
    BatchingPlan,
    StagePlan,
    autotune,
    probe_batch,
    warm_up,
)
from cascadebert.server.scheduling.request_tracker import RequestTracker
from cascadebert.server.scheduling.requests import BatchTask, Task, TokenizeTask, run_batch, tokenize
from cascadebert.server.types import DispatcherState, RequestOptions, RequestResult, ServiceUnavailable
from cascadebert.timing import now
from cascadebert.types import Texts

log = logging.getLogger(__name__)

TICK = 0.05
FIRST_CALL_SECONDS = 120.0  # a stage may compile itself during its first batch
LATE_SECONDS, LATE_FACTOR = 0.25, 10
"""A batch is late after so many seconds, and so many times its expected duration: its stage gets no further
batches, and another thread takes over those of the other stages."""
MAX_PROBES = 3  # concurrent ones of a stage, as they may hang


class BatchDispatcher:
    """Runs a cascade on the texts of many concurrent requests, with supervised worker threads.

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
        self._lock = Lock()  # protects the tracker and the workers
        self._wake = Condition(self._lock)  # there may be a task
        self._idle = Condition(self._lock)  # nothing is in flight
        self._accepting, self._closed = False, Event()
        self._workers: dict[Thread, Task | None] = {}  # with its task; an abandoned thread is removed
        self._num_started = 0
        self._set_plan(BatchingPlan(1, (StagePlan(),) * len(cascade.stages)))

    def _set_plan(self, plan: BatchingPlan) -> None:
        self._plan = plan
        self._tracker = RequestTracker(self._cascade, plan, self._config, self._monitor)

    def start(self) -> None:
        """Measure the batching plan, warm up the stages, and start to accept requests.

        A stage that fails is down from the start, and probed from time to time.
        """
        stages = self._cascade.stages
        reasons = [_first_call(stage) for stage in stages]
        available = [reason is None for reason in reasons]
        self._set_plan(autotune(stages, available, latency_target=self._config.latency_target))
        for number, reason in enumerate(reasons):
            health = self._tracker.health[number]
            health.reason, health.warmed_up = reason, reason is None
            if reason is None:
                warm_up(stages[number], self._plan.stages[number])
        with self._lock:
            self._start_workers()
            self._accepting = True
        Thread(target=self._supervise, name="cascadebert-supervisor", daemon=True).start()

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
        self._validate(texts, options)
        with self._lock:
            if not self._accepting:
                raise ServiceUnavailable("the server is starting or stopping")
            at = self._clock()
            self._tracker.adapt(at)
            future = self._tracker.admit(texts, options, at)
            self._wake.notify()
        self._resolve_futures()  # of a request all of whose results were remembered
        return future

    def drain(self, seconds: float) -> bool:
        """Accept nothing more, complete what is in flight, and stop.

        Requests that are open after so many seconds fail with ServiceUnavailable; False if there were any.
        Texts that still wait for shadow evaluation stay counted in `state`.
        """
        end = now() + seconds
        with self._lock:
            self._accepting = False
            while self._tracker.has_work and (left := end - now()) > 0:
                self._idle.wait(min(left, TICK))
            completed = not self._tracker.requests
            for request in list(self._tracker.requests):
                self._tracker.end(
                    request, ServiceUnavailable("the server stopped before the result was complete")
                )
        self._resolve_futures()
        with self._lock:
            self._closed.set()
            self._wake.notify_all()
            threads = [thread for thread, task in self._workers.items() if task not in self._tracker.late]
        for thread in threads:
            thread.join(max(0.1, end - now()))
        return completed

    def state(self) -> DispatcherState:
        """A snapshot."""
        with self._lock:
            return self._tracker.state(self._clock(), accepting=self._accepting)

    def _validate(self, texts: Texts, options: RequestOptions) -> None:
        if isinstance(texts, str):
            raise DataError("expected a list of texts (or of pairs), got one string: put it in a list")
        limit, count = self._config.max_queue_size, len(self._cascade.stages)
        if len(texts) > limit:
            raise DataError(f"{len(texts)} texts in one request; at most {limit} fit into the queue")
        if options.max_stage is not None and not 1 <= options.max_stage <= count:
            raise DataError(f"max_stage must be from 1 to {count}, not {options.max_stage}")
        if options.deadline is not None and options.deadline <= 0:
            raise DataError(f"the deadline must be a number of seconds above 0, not {options.deadline}")
        _check_texts(texts)
        self._cascade.check_input_kind(texts)

    def _resolve_futures(self) -> None:
        """Resolve the futures of completed requests; without the lock, as their callbacks run here."""
        if not self._tracker.completed:
            return
        with self._lock:
            completed, self._tracker.completed = self._tracker.completed, []
        for future, result in completed:
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(result, RequestResult):
                future.set_result(result)
            else:
                future.set_exception(result)

    def _start_workers(self) -> None:
        while not self._closed.is_set() and self._num_punctual < self._plan.workers:
            self._num_started += 1
            thread = Thread(target=self._work, name=f"cascadebert-{self._num_started}", daemon=True)
            self._workers[thread] = None
            thread.start()

    @property
    def _num_punctual(self) -> int:
        return len(self._workers) - len(self._tracker.late)

    def _work(self) -> None:
        thread = current_thread()
        while (task := self._next_task(thread)) is not None:
            try:
                record = self._run(task)
            except Exception as error:  # an engine or a tokenizer may raise anything
                record = partial(self._fail, task, error)
            with self._lock:
                if thread in self._workers:  # the outputs of an abandoned thread are ignored
                    self._return_task(thread, task)
                    record(self._clock())
                    self._notify_idle()
            self._resolve_futures()

    def _next_task(self, thread: Thread) -> Task | None:
        """Wait for a task; None if this thread must end, as the server stops or other workers suffice."""
        with self._lock:
            while self._is_needed(thread) and (task := self._tracker.take(self._clock())) is None:
                self._wake.wait()
            if not self._is_needed(thread):
                self._workers.pop(thread, None)
                return None
            self._workers[thread] = task
            if self._tracker.scheduler.has_work:
                self._wake.notify()
            return task

    def _is_needed(self, thread: Thread) -> bool:
        enough = self._num_punctual > self._plan.workers
        return thread in self._workers and not self._closed.is_set() and not enough

    def _return_task(self, thread: Thread, task: Task) -> None:
        self._workers[thread] = None
        if task in self._tracker.late:
            self._tracker.late.discard(task)
            self._wake.notify()

    def _notify_idle(self) -> None:
        if not self._tracker.requests:
            self._idle.notify_all()

    def _run(self, task: Task) -> Callable[[float], None]:
        """Run a task; returns the call that records its outputs at a time, to be made with the lock."""
        if isinstance(task, TokenizeTask):
            return partial(self._tracker.tokenized, task, tokenize(self._cascade, task))
        return partial(self._tracker.ran, task, *run_batch(self._cascade, task))

    def _fail(self, task: Task, error: Exception, at: float) -> None:
        if isinstance(task, BatchTask):
            self._fail_stage(task, _describe(error), at)
        elif isinstance(error, DataError):
            self._tracker.fail_tokenization(task, error)
        else:  # whatever a text does to a tokenizer is the text's fault
            self._tracker.fail_tokenization(task, DataError(f"a text cannot be tokenized: {error}"))

    def _supervise(self) -> None:
        while not self._closed.wait(TICK):
            at = self._clock()
            with self._lock:
                self._tracker.adapt(at)
                for thread, task in list(self._workers.items()):
                    self._check_worker(thread, task, at)
                self._tracker.sweep(at)
                self._start_workers()
                self._wake.notify()
                self._notify_idle()
                for stage in range(len(self._cascade.stages)):
                    self._probe_if_down(stage, at)
            self._resolve_futures()

    def _check_worker(self, thread: Thread, task: Task | None, at: float) -> None:
        """Replace a dead thread, mark a batch that is late, and abandon the thread of a stage that hangs."""
        if not thread.is_alive():
            log.error("a worker thread died; another one replaces it")
            del self._workers[thread]
            if task is not None:
                self._tracker.late.discard(task)
                self._tracker.worker_died(task)
            return
        if not isinstance(task, BatchTask):
            return
        elapsed, expected = at - task.started, self._tracker.load.batch_seconds(task.stage, task.tokens)
        if elapsed >= self._config.stage_timeout:
            del self._workers[thread]
            self._tracker.late.discard(task)
            self._fail_stage(task, f"it did not respond within {self._config.stage_timeout:g} s", at)
        elif elapsed > max(LATE_SECONDS, LATE_FACTOR * expected):
            self._tracker.late.add(task)

    def _fail_stage(self, task: BatchTask, reason: str, at: float) -> None:
        log.error("stage %d is down: %s", task.stage + 1, reason)
        self._tracker.health[task.stage].next_probe = at + self._config.probe_every
        self._tracker.failed(task, reason)

    def _probe_if_down(self, stage: int, at: float) -> None:
        health = self._tracker.health[stage]
        if health.reason is not None and at >= health.next_probe and health.probes < MAX_PROBES:
            health.next_probe = at + self._config.probe_every
            health.probes += 1
            Thread(target=self._probe, args=(stage,), name="cascadebert-probe", daemon=True).start()

    def _probe(self, number: int) -> None:
        """Test whether a stage responds again; in a thread of its own, as it may hang."""
        health, plan = self._tracker.health[number], self._plan.stages[number]
        reason = _test_stage(self._cascade.stages[number], None if health.warmed_up else plan)
        with self._lock:
            health.probes -= 1
            health.reason, health.warmed_up = reason, health.warmed_up or reason is None
            if reason is None:
                log.warning("stage %d is up again", number + 1)
            self._wake.notify_all()


def _check_texts(texts: Sequence[Any]) -> None:
    """Raise DataError if they are not all strings, or all pairs of strings."""
    kinds = set[int]()
    for number, text in enumerate(texts, start=1):
        parts = text if isinstance(text, (tuple, list)) and len(text) == 2 else (text,)
        if not all(isinstance(part, str) for part in parts):
            raise DataError(f"text {number}: expected a string or a pair of strings, got {text!r:.40}")
        kinds.add(len(parts))
    if len(kinds) > 1:
        raise DataError("expected all texts, or all pairs of texts; got both")


def _test_stage(stage: Stage, plan: StagePlan | None = None) -> str | None:
    """Run a short batch, and with a plan the warm-up; the reason if that fails, else None."""
    try:
        stage.run(probe_batch(stage))
        if plan is not None:
            warm_up(stage, plan)
    except Exception as error:
        return _describe(error)
    return None


def _first_call(stage: Stage) -> str | None:
    """Test a stage that may hang; the reason if it fails, else None."""
    reasons: list[str | None] = ["it did not respond"]

    def call() -> None:
        reasons[0] = _test_stage(stage)

    thread = Thread(target=call, daemon=True)
    thread.start()
    thread.join(FIRST_CALL_SECONDS)
    return reasons[0]


def _describe(error: Exception) -> str:
    return f"it raised {type(error).__name__}: {error}"
