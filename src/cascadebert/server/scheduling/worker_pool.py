"""The threads that run tasks, and the one that looks after them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Condition, Event, Lock, Thread

from cascadebert.errors import DataError
from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.scheduling.batching_plan import BatchingPlan, probe, warm_up
from cascadebert.server.scheduling.request_tracker import RequestTracker
from cascadebert.server.scheduling.requests import BatchTask, Task, TokenizeTask, judge, read, token_batch
from cascadebert.server.types import RequestResult

log = logging.getLogger(__name__)

TICK = 0.05
LATE_SECONDS, LATE_TIMES = 0.25, 10
"""A batch is late after so many seconds, and so many times what it should take: its stage is given no more,
and another thread takes over the other stages' batches."""
MOST_PROBES = 3
"""Attempts to have a stage back that may hang at the same time."""


class Worker:
    """One thread that runs tasks, and what it is at.

    Attributes:
        thread: its own.
        task: that it runs.
        late: the task takes much longer than it should.
        gone: given up; what it comes back with is ignored.
    """

    def __init__(self, work: Callable[[Worker], None], number: int) -> None:
        self.task: Task | None = None
        self.late = False
        self.gone = False
        self.thread = Thread(target=work, args=(self,), name=f"cascadebert-{number}", daemon=True)


class WorkerPool:
    """Worker threads over one board.

    Args:
        cascade: whose stages they run.
        plan: how many threads there are.
        settings: of the server.
        board: what is to be done.
        clock: gives the time in seconds.

    Attributes:
        lock: held by whoever touches the board.
        wake: notified when there is a task.
        quiet: notified when nothing is in flight.
    """

    def __init__(
        self,
        cascade: Cascade,
        plan: BatchingPlan,
        settings: ServerConfig,
        board: RequestTracker,
        clock: Callable[[], float],
    ) -> None:
        self.lock = Lock()
        self.wake, self.quiet = Condition(self.lock), Condition(self.lock)
        self._cascade, self._plan, self._settings = cascade, plan, settings
        self._board, self._clock = board, clock
        self._workers: list[Worker] = []
        self._started = 0
        self._closed = Event()
        count = len(cascade.stages)
        self._warm = [one.why is None for one in board.health]
        self._probing, self._probe_at = [0] * count, [0.0] * count

    def start(self, each_tick: Callable[[float], None]) -> None:
        """Start the threads.

        Args:
            each_tick: called with the time, many times a second, by a thread that holds the lock.
        """
        with self.lock:
            self._fill_up()
        Thread(target=self._look_after, args=(each_tick,), name="cascadebert-watch", daemon=True).start()

    def close(self, seconds: float) -> None:
        """Stop the threads, and wait so long for those that do not hang."""
        with self.lock:
            self._closed.set()
            self.wake.notify_all()
            threads = [worker.thread for worker in self._workers if not worker.late]
        for thread in threads:
            thread.join(seconds)

    def settle(self) -> None:
        """Give futures what they are to have; without the lock, as their callbacks run here."""
        if not self._board.settled:
            return
        with self.lock:
            settled, self._board.settled = self._board.settled, []
        for future, outcome in settled:
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(outcome, RequestResult):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)

    def check(self, at: float) -> None:
        """Replace workers that hang or died, end what is past its deadline, try stages that are down."""
        with self.lock:
            for worker in list(self._workers):
                self._look_at(worker, at)
            self._board.sweep(at)
            self._fill_up()
            self.wake.notify()
            if not self._board.requests:
                self.quiet.notify_all()
        self.settle()
        for stage in range(len(self._probing)):
            self._probe_if_down(stage, at)

    def _fill_up(self) -> None:
        """As many workers as there should be, those that are late not counted."""
        while not self._closed.is_set() and self._punctual() < self._plan.workers:
            self._started += 1
            worker = Worker(self._work, self._started)
            self._workers.append(worker)
            worker.thread.start()

    def _punctual(self) -> int:
        return sum(not worker.late for worker in self._workers)

    def _work(self, worker: Worker) -> None:
        """Run tasks until there are too many workers, or the end."""
        while (task := self._next(worker)) is not None:
            if isinstance(task, TokenizeTask):
                self._read(worker, task)
            else:
                self._run(worker, task)
            self.settle()

    def _next(self, worker: Worker) -> Task | None:
        """Wait for a task; None where the worker is to end."""
        with self.lock:
            while self._wanted(worker) and (task := self._board.take(self._clock())) is None:
                self.wake.wait()
            if self._wanted(worker):
                worker.task = task
                if self._board.schedule.more:
                    self.wake.notify()
                return task
            if worker in self._workers:
                self._workers.remove(worker)
            return None

    def _wanted(self, worker: Worker) -> bool:
        """Whether a worker is to go on: not after the end, and not where there are others enough."""
        return not (self._closed.is_set() or worker.gone or self._punctual() > self._plan.workers)

    def _read(self, worker: Worker, task: TokenizeTask) -> None:
        try:
            tokens = read(self._cascade, task)
        except Exception as error:  # whatever a text does to a tokenizer is the text's fault
            refused = error if isinstance(error, DataError) else DataError(f"a text cannot be read: {error}")
            with self.lock:
                worker.task = None
                self._board.unreadable(task, refused)
            return
        with self.lock:
            worker.task = None
            self._board.was_read(task, tokens, self._clock())

    def _run(self, worker: Worker, task: BatchTask) -> None:
        stage = self._cascade.stages[task.stage]
        try:
            batch = token_batch(task, stage.tokenizer.key, stage.tokenizer.pad_id)
            said = judge(self._cascade, task, stage.run(batch)[: len(task.rows)])
        except Exception as error:  # an engine may raise anything; it must not take the server along
            with self.lock:
                if self._came_back(worker):
                    self._give_up(task, f"it raised {type(error).__name__}: {error}")
            return
        with self.lock:
            if self._came_back(worker):
                self._board.ran(task, said, self._clock())
                if not self._board.requests:
                    self.quiet.notify_all()

    def _came_back(self, worker: Worker) -> bool:
        """Whether anyone still waits for what a worker has done."""
        if worker.gone:
            return False
        if worker.late and isinstance(worker.task, BatchTask):
            self._board.health[worker.task.stage].late -= 1
            self.wake.notify()
        worker.task, worker.late = None, False
        return True

    def _look_at(self, worker: Worker, at: float) -> None:
        """Replace a dead worker, mark one whose batch is late, and give up one whose stage hangs."""
        task = worker.task
        if not worker.thread.is_alive():
            self._bury(worker)
        elif isinstance(task, BatchTask):
            self._time(worker, task, at)

    def _time(self, worker: Worker, task: BatchTask, at: float) -> None:
        taken, health = at - task.started, self._board.health[task.stage]
        if taken >= self._settings.stage_timeout:
            health.late -= worker.late
            worker.gone = True
            self._workers.remove(worker)
            self._give_up(task, f"it did not answer within {self._settings.stage_timeout:g} s")
        elif not worker.late and taken > max(
            LATE_SECONDS, LATE_TIMES * self._board.pace.batch(task.stage, task.tokens)
        ):
            worker.late = True
            health.late += 1

    def _bury(self, worker: Worker) -> None:
        """A worker thread has died: its task is done again."""
        log.error("a worker thread died; another takes its place")
        self._workers.remove(worker)
        if worker.task is None:
            return
        if worker.late:
            self._board.health[worker.task.stage].late -= 1
        self._board.died(worker.task)

    def _give_up(self, task: BatchTask, why: str) -> None:
        log.error("stage %d is down: %s", task.stage + 1, why)
        self._probe_at[task.stage] = self._clock() + self._settings.probe_every
        self._board.failed(task, why)

    def _probe_if_down(self, stage: int, at: float) -> None:
        down = self._board.health[stage].why is not None
        if down and at >= self._probe_at[stage] and self._probing[stage] < MOST_PROBES:
            self._probe_at[stage] = at + self._settings.probe_every
            self._probing[stage] += 1
            Thread(target=self._probe, args=(stage,), name="cascadebert-probe", daemon=True).start()

    def _probe(self, number: int) -> None:
        """See whether a stage answers again; in a thread of its own, as it may hang."""
        stage, why = self._cascade.stages[number], None
        try:
            stage.run(probe(stage))
            if not self._warm[number]:
                warm_up(stage, self._plan, number)
        except Exception as error:
            why = f"it raised {type(error).__name__}: {error}"
        with self.lock:
            self._probing[number] -= 1
            if why is None:
                self._warm[number] = True
                log.warning("stage %d answers again", number + 1)
            self._board.health[number].why = why
            self.wake.notify_all()

    def _look_after(self, each_tick: Callable[[float], None]) -> None:
        while not self._closed.wait(TICK):
            at = self._clock()
            with self.lock:
                each_tick(at)
            self.check(at)
