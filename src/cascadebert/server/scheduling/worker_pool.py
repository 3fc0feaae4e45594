"""Worker threads and their supervisor."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from threading import Condition, Event, Lock, Thread, current_thread

from cascadebert.errors import DataError
from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.scheduling.batching_plan import BatchingPlan, probe_batch, warm_up
from cascadebert.server.scheduling.request_tracker import RequestTracker
from cascadebert.server.scheduling.requests import (
    BatchTask,
    Task,
    TokenizeTask,
    route_batch,
    token_batch,
    tokenize,
)
from cascadebert.server.types import RequestResult

log = logging.getLogger(__name__)

TICK = 0.05
LATE_SECONDS, LATE_FACTOR = 0.25, 10
"""A batch is late after so many seconds, and so many times its expected duration: its stage gets no further
batches, and another thread takes over those of the other stages."""
MAX_PROBES = 3  # concurrent ones of a stage, as they may hang


class WorkerPool:
    """Threads that run the tasks of a tracker.

    `lock` protects the tracker, `wake` is notified when there is a task, `idle` when nothing is in flight.
    """

    def __init__(
        self,
        cascade: Cascade,
        plan: BatchingPlan,
        config: ServerConfig,
        tracker: RequestTracker,
        clock: Callable[[], float],
    ) -> None:
        self.lock = Lock()
        self.wake, self.idle = Condition(self.lock), Condition(self.lock)
        self._cascade, self._plan, self._config = cascade, plan, config
        self._tracker, self._clock = tracker, clock
        self._workers: dict[Thread, Task | None] = {}  # with its task; an abandoned thread is removed
        self._started = 0
        self._closed = Event()

    def start(self, on_tick: Callable[[float], None]) -> None:
        """Start the threads; the supervisor calls `on_tick` with the time, many times a second, locked."""
        with self.lock:
            self._start_workers()
        Thread(target=self._supervise, args=(on_tick,), name="cascadebert-supervisor", daemon=True).start()

    def close(self, seconds: float) -> None:
        """Stop the threads, and wait so long for each that does not hang."""
        with self.lock:
            self._closed.set()
            self.wake.notify_all()
            threads = [thread for thread, task in self._workers.items() if not self._is_late(task)]
        for thread in threads:
            thread.join(seconds)

    def resolve_futures(self) -> None:
        """Resolve the futures of completed requests; without the lock, as their callbacks run here."""
        if not self._tracker.completed:
            return
        with self.lock:
            completed, self._tracker.completed = self._tracker.completed, []
        for future, result in completed:
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(result, RequestResult):
                future.set_result(result)
            else:
                future.set_exception(result)

    def check(self, now: float) -> None:
        """Replace workers that died or hang, expire requests, probe stages that are down."""
        with self.lock:
            for thread, task in list(self._workers.items()):
                if not thread.is_alive():
                    self._bury(thread, task)
                elif isinstance(task, BatchTask):
                    self._check_batch(thread, task, now)
            self._tracker.sweep(now)
            self._start_workers()
            self.wake.notify()
            if not self._tracker.requests:
                self.idle.notify_all()
            for stage in range(len(self._tracker.health)):
                self._probe_if_down(stage, now)
        self.resolve_futures()

    def _start_workers(self) -> None:
        while not self._closed.is_set() and self._num_punctual() < self._plan.workers:
            self._started += 1
            thread = Thread(target=self._work, name=f"cascadebert-{self._started}", daemon=True)
            self._workers[thread] = None
            thread.start()

    def _num_punctual(self) -> int:
        return len(self._workers) - sum(len(health.late) for health in self._tracker.health)

    def _is_late(self, task: Task | None) -> bool:
        return isinstance(task, BatchTask) and task in self._tracker.health[task.stage].late

    def _work(self) -> None:
        while (task := self._next_task()) is not None:
            try:
                record = self._run(task)
            except Exception as error:  # an engine or a tokenizer may raise anything
                record = partial(self._fail, task, error)
            with self.lock:
                if self._return_task(task):
                    record(self._clock())
                    if not self._tracker.requests:
                        self.idle.notify_all()
            self.resolve_futures()

    def _run(self, task: Task) -> Callable[[float], None]:
        """Run a task; returns the call that records its outputs at a time, to be made with the lock."""
        if isinstance(task, TokenizeTask):
            return partial(self._tracker.tokenized, task, tokenize(self._cascade, task))
        stage = self._cascade.stages[task.stage]
        batch = token_batch(task, stage.tokenizer.key, stage.tokenizer.pad_id)
        logits = stage.run(batch)[: len(task.rows)]
        return partial(self._tracker.ran, task, logits, route_batch(self._cascade, task, logits))

    def _fail(self, task: Task, error: Exception, now: float) -> None:
        if isinstance(task, BatchTask):
            self._fail_stage(task, f"it raised {type(error).__name__}: {error}", now)
        elif isinstance(error, DataError):
            self._tracker.fail_tokenization(task, error)
        else:  # whatever a text does to a tokenizer is the text's fault
            self._tracker.fail_tokenization(task, DataError(f"a text cannot be tokenized: {error}"))

    def _next_task(self) -> Task | None:
        """Wait for a task; None if this thread must end, as the pool is closed or others suffice."""
        thread = current_thread()
        with self.lock:
            while (
                thread in self._workers
                and not self._closed.is_set()
                and self._num_punctual() <= self._plan.workers
            ):
                task = self._tracker.take(self._clock())
                if task is not None:
                    self._workers[thread] = task
                    if self._tracker.scheduler.has_work:
                        self.wake.notify()
                    return task
                self.wake.wait()
            self._workers.pop(thread, None)
            return None

    def _return_task(self, task: Task) -> bool:
        """Release the task of this thread; False if the thread was abandoned, and its output is ignored."""
        thread = current_thread()
        if thread not in self._workers:
            return False
        self._workers[thread] = None
        if self._is_late(task):
            self._tracker.health[task.stage].late.discard(task)
            self.wake.notify()
        return True

    def _check_batch(self, thread: Thread, task: BatchTask, now: float) -> None:
        """Mark a batch that is late, and abandon the thread of a stage that hangs."""
        elapsed, health = now - task.started, self._tracker.health[task.stage]
        expected = self._tracker.load.batch_seconds(task.stage, task.tokens)
        if elapsed >= self._config.stage_timeout:
            health.late.discard(task)
            del self._workers[thread]
            self._fail_stage(task, f"it did not respond within {self._config.stage_timeout:g} s", now)
        elif elapsed > max(LATE_SECONDS, LATE_FACTOR * expected):
            health.late.add(task)

    def _bury(self, thread: Thread, task: Task | None) -> None:
        log.error("a worker thread died; another one replaces it")
        del self._workers[thread]
        if isinstance(task, BatchTask):
            self._tracker.health[task.stage].late.discard(task)
        if task is not None:
            self._tracker.worker_died(task)

    def _fail_stage(self, task: BatchTask, reason: str, now: float) -> None:
        log.error("stage %d is down: %s", task.stage + 1, reason)
        self._tracker.health[task.stage].next_probe = now + self._config.probe_every
        self._tracker.failed(task, reason)

    def _probe_if_down(self, stage: int, now: float) -> None:
        health = self._tracker.health[stage]
        if health.reason is not None and now >= health.next_probe and health.probes < MAX_PROBES:
            health.next_probe = now + self._config.probe_every
            health.probes += 1
            Thread(target=self._probe, args=(stage,), name="cascadebert-probe", daemon=True).start()

    def _probe(self, number: int) -> None:
        """Test whether a stage responds again; in a thread of its own, as it may hang."""
        stage, health = self._cascade.stages[number], self._tracker.health[number]
        reason = failure_reason(partial(stage.run, probe_batch(stage)))
        if reason is None and not health.warmed_up:
            reason = failure_reason(partial(warm_up, stage, self._plan.stages[number]))
        with self.lock:
            health.probes -= 1
            if reason is None:
                health.warmed_up = True
                log.warning("stage %d is up again", number + 1)
            health.reason = reason
            self.wake.notify_all()

    def _supervise(self, on_tick: Callable[[float], None]) -> None:
        while not self._closed.wait(TICK):
            now = self._clock()
            with self.lock:
                on_tick(now)
            self.check(now)


def failure_reason(run: Callable[[], object]) -> str | None:
    """Call something that may raise anything, as an engine may; the reason if it does, else None."""
    try:
        run()
    except Exception as error:
        return f"it raised {type(error).__name__}: {error}"
    return None
