"""All requests in flight, and what becomes of them. No thread, no model and no clock here."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.monitor import QualityMonitor
from cascadebert.server.scheduling.batching_plan import BatchingPlan
from cascadebert.server.scheduling.load_estimator import AdmissionLimit, LoadEstimator
from cascadebert.server.scheduling.requests import (
    BatchTask,
    Request,
    Row,
    StageOutput,
    Task,
    TokenizeTask,
    Tokens,
)
from cascadebert.server.scheduling.scheduler import Scheduler
from cascadebert.server.scheduling.shadow_queue import ShadowQueue
from cascadebert.server.types import (
    DeadlineExceeded,
    Overloaded,
    RequestOptions,
    RequestResult,
    RowResult,
    ServerError,
    StageResult,
    StageUnavailable,
)
from cascadebert.types import Texts

USUAL_DEADLINE = 10
"""Latency targets until an answer is of no use, where a request names no deadline."""
SOONEST_RETRY = 0.05
MOST_DEATHS = 1


@dataclass(slots=True)
class StageHealth:
    """Whether a stage answers.

    Attributes:
        why: what is wrong with it; None while it is up.
        late: batches that take much longer than they should.
    """

    why: str | None = None
    late: int = 0

    @property
    def answers(self) -> bool:
        """Whether batches are given to it."""
        return self.why is None and not self.late


class RequestTracker:
    """All requests in flight. Whoever calls it holds the pool's lock.

    Args:
        cascade: whose stages answer.
        plan: how batches are run.
        settings: of the server.
        watch: is told what is answered, or None.

    Attributes:
        settled: futures with what they are to be given; the caller takes them away.
        requests: in flight, by their identity.
        rows: of these, without an answer.
        health: of each stage.
        exits: (num_stages,) rows answered so far.
        limit: delay at which requests are refused.
        audits: rows that are answered and have yet to be seen by the last stage; None without a watch.
        schedule: of the tasks.
    """

    def __init__(
        self,
        cascade: Cascade,
        plan: BatchingPlan,
        settings: ServerConfig,
        monitor: QualityMonitor | None = None,
    ) -> None:
        count = len(cascade.stages)
        expected = cascade.operating_point.metrics
        rates = (1 / count,) * count if expected is None else expected.exit_rates
        reached = np.maximum(np.cumsum(rates[::-1])[::-1], 1e-6)
        self.pace = LoadEstimator(plan.seconds, (reached[1:] / reached[:-1]).tolist())
        self.limit = AdmissionLimit(settings.latency_target)
        self.settled: list[tuple[Future[RequestResult], RequestResult | Exception]] = []
        self.requests: dict[int, Request] = {}
        self.rows = 0
        self.health = [StageHealth() for _ in range(count)]
        self.exits = [0] * count
        self._usual = USUAL_DEADLINE * settings.latency_target
        self.schedule = Scheduler(plan, count, usual=self._usual, target=settings.latency_target)
        key = cascade.stages[-1].tokenizer.key
        self.audits = None if monitor is None else ShadowQueue(monitor, self.schedule, plan, count - 1, key)
        self._tokens = [0] * count
        self._names = [stage.name for stage in cascade.stages]
        self._keys = [stage.tokenizer.key for stage in cascade.stages]
        self._plan, self._settings, self._monitor = plan, settings, monitor

    def _audited(self) -> ShadowQueue:
        assert self.audits is not None
        return self.audits

    @property
    def answers(self) -> list[bool]:
        """(num_stages,) which stages may be given batches."""
        return [one.answers for one in self.health]

    @property
    def delay(self) -> float:
        """Seconds that a request that arrives now is expected to wait."""
        costs = self.pace.onward(self.answers)
        return sum(t * c for t, c in zip(self._tokens, costs, strict=True)) / self._plan.workers

    def admit(
        self,
        texts: Texts,
        characters: int,
        options: RequestOptions,
        now: float,
        *,
        point: int,
        thresholds: tuple[float, ...],
        outside: str | None,
    ) -> Request:
        """Let a request in, whole.

        Raises:
            Overloaded: if its rows do not fit, or would wait too long.
            StageDown: if the first stage does not answer.
        """
        if self.health[0].why is not None:
            raise self._down(0)
        seconds = self._usual if options.deadline is None else options.deadline
        tokens, last = self.pace.tokens(characters), len(self.health) - 1
        own = tokens * self.pace.onward(self.answers)[0] / self._plan.workers
        self._refuse(len(texts), own, seconds)
        latest = last if options.max_stage is None else options.max_stage - 1
        drawn, weight = np.zeros(len(texts), dtype=np.bool_), 1.0
        if self._monitor is not None and 0 < last == latest and all(self.answers):
            drawn, weight = self._monitor.sample_arrivals(len(texts)), self._monitor.weight()
        request = Request(
            texts, characters, latest, now, now + seconds, point, thresholds, weight, outside, own
        )
        each = max(1, tokens // len(texts))
        for place, audited in enumerate(drawn.tolist()):
            request.rows.append(Row(request, place, audited, entered=now, length=each))
        request.open = len(texts)
        self.requests[id(request)] = request
        self.rows += len(texts)
        self._tokens[0] += each * len(texts)
        self.schedule.read(TokenizeTask(request, 0, list(request.rows), False, now))
        return request

    def _refuse(self, rows: int, own: float, seconds: float) -> None:
        if not self.requests:
            return
        delay, limit = self.delay, self.limit.seconds
        retry = max(SOONEST_RETRY, delay - limit / 2)
        if self.rows + rows > self._settings.max_queue_size:
            raise Overloaded(f"{self.rows} rows wait already; there is no room for {rows} more", retry)
        if delay > limit or delay + own > seconds:
            raise Overloaded(f"a request would wait {delay:.3f} seconds at present", retry)

    def take(self, now: float) -> Task | None:
        """What to do next; None where nothing can be done."""
        while True:
            idle = not self.requests
            task = self.schedule.take(now, self.answers, lambda row: self._past(row, now), idle=idle)
            if task is None or task.rows:
                return task

    def _past(self, row: Row, now: float) -> bool:
        """Whether nobody waits for a row any more; its request is ended if that is new."""
        if not row.over and now >= row.request.deadline:
            self.end(row.request, DeadlineExceeded("the deadline passed before an answer was there"))
        return row.over

    def was_read(self, task: TokenizeTask, tokens: Sequence[Tokens], now: float) -> None:
        """Let rows wait for their stage, now that their tokens are there."""
        key = self._keys[task.stage]
        if task.stage == 0:
            total = sum(one.length for one in tokens)
            self.pace.read(task.request.characters, total, now - task.started)
        for row, one in zip(task.rows, tokens, strict=True):
            row.tokens[key], length = one, self._plan.lengths[task.stage].waits_at(one.length)
            if task.audit:
                row.length = length
                self.schedule.audit(row)
            elif not row.over:
                self._tokens[row.stage] += length - row.length
                row.length = length
                self._wait(row)

    def _wait(self, row: Row) -> None:
        if self.health[row.stage].why is None:
            self.schedule.wait(row)
        else:
            self._without(row)

    def unreadable(self, task: TokenizeTask, error: Exception) -> None:
        """A text cannot be turned into tokens of its stage: that is the answer to the request."""
        if task.audit:
            self._audited().unreadable(task.rows)
        elif id(task.request) in self.requests:
            self.end(task.request, error)

    def ran(self, task: BatchTask, said: StageOutput, now: float) -> None:
        """Answer the rows that are sure enough, and pass on the others."""
        self.pace.ran(task.stage, task.tokens, now - task.started)
        if task.audit:
            self.schedule.auditing = False
            self._audited().seen(task.rows, said.probabilities.argmax(axis=1).tolist())
            return
        going, columns = list[Row](), (said.probabilities, said.logits.astype(np.float64))
        told = zip(task.rows, *columns, said.confidences.tolist(), said.exits.tolist(), strict=True)
        for row, probabilities, logits, sure, leaves in told:
            if row.over:
                continue
            row.stage_results.append(StageResult(task.stage + 1, probabilities, sure, now - row.entered))
            row.logits = logits
            if leaves or task.stage == row.request.last:
                self._answer(row, degraded=False)
                if not row.request.open:
                    self.limit.answered(now - row.request.arrived, own=row.request.own)
            else:
                going.append(row)
        if task.stage + 1 < len(self.health):
            self.pace.passed(task.stage, task.length * len(going), task.tokens)
            self._pass_on(going, task.stage + 1, now)

    def _pass_on(self, rows: Sequence[Row], stage: int, now: float) -> None:
        """Let rows wait for the next stage; those of another tokenizer are read first."""
        unread: dict[int, TokenizeTask] = {}
        for row in rows:
            if row.over:
                continue
            tokens, before = row.tokens.get(self._keys[stage]), row.length
            if tokens is not None:
                row.length = self._plan.lengths[stage].waits_at(tokens.length)
            self._tokens[row.stage] -= before
            self._tokens[stage] += row.length
            row.stage, row.entered = stage, now
            if tokens is not None:
                self._wait(row)
            else:
                empty = TokenizeTask(row.request, stage, [], False, now)
                unread.setdefault(id(row.request), empty).rows.append(row)
        for task in unread.values():
            self.schedule.read(task)

    def failed(self, task: BatchTask, why: str) -> None:
        """A stage raised, or did not come back: it is down, and its rows go without it."""
        self.stop(task.stage, why)
        self._again(task)

    def died(self, task: Task) -> None:
        """A worker thread died: its rows wait again, once; then it counts as the stage's fault."""
        for row in task.rows:
            row.deaths += 1
        if max(row.deaths for row in task.rows) > MOST_DEATHS:
            self._too_deadly(task)
        elif isinstance(task, TokenizeTask):
            self.schedule.read(task)
        else:
            self._again(task)

    def _too_deadly(self, task: Task) -> None:
        if isinstance(task, BatchTask):
            self.failed(task, "its worker threads die")
        else:
            self.unreadable(task, ServerError("the texts could not be read"))

    def _again(self, task: BatchTask) -> None:
        """The rows of a batch that came to nothing wait once more."""
        if task.audit:
            self.schedule.auditing = False
            self._audited().again(task.rows)
            return
        for row in task.rows:
            if not row.over:
                self._wait(row)

    def stop(self, stage: int, why: str) -> None:
        """A stage does not answer any more: what waits for it goes without it."""
        self.health[stage].why = why
        for row in list(self.schedule.queues[stage].rows()):
            if not row.over:
                self._without(row)

    def end(self, request: Request, outcome: Exception) -> None:
        """A request gets no answer; its rows that wait are dropped."""
        del self.requests[id(request)]
        for row in request.rows:
            if not row.over:
                self._leave(row)
        request.rows.clear()  # which know their request: nothing is left to the garbage collector
        self.settled.append((request.future, outcome))

    def sweep(self, now: float) -> None:
        """End the requests whose deadline has passed, or that nobody waits for any more."""
        for request in list(self.requests.values()):
            if request.future.cancelled():
                self.end(request, DeadlineExceeded("nobody waits for an answer"))
            elif now >= request.deadline:
                self._expire(request)

    def _expire(self, request: Request) -> None:
        """The deadline has passed; if only stages that do not answer are missing, go without them."""
        left = [row for row in request.rows if not row.over]
        may = self._settings.on_last_stage_failure == "degrade"
        if may and all(row.stage_results and not self.health[row.stage].answers for row in left):
            for row in left:
                self._answer(row, degraded=True)
        else:
            self._past(left[0], request.deadline)

    def _down(self, stage: int) -> StageUnavailable:
        return StageUnavailable(
            f"stage {stage + 1} ({self._names[stage]}) does not answer: {self.health[stage].why}"
        )

    def _without(self, row: Row) -> None:
        """A row goes without the stage that it waits for."""
        if self._settings.on_last_stage_failure == "degrade" and row.stage_results:
            self._answer(row, degraded=True)
        else:
            self.end(row.request, self._down(row.stage))

    def _leave(self, row: Row) -> None:
        """A row is in flight no more."""
        if row.waiting:
            self.schedule.queues[row.stage].forget(row)
        row.over = True
        self.rows -= 1
        self._tokens[row.stage] -= row.length

    def _answer(self, row: Row, *, degraded: bool) -> None:
        assert row.logits is not None
        row.answer = RowResult(tuple(row.stage_results), row.logits, degraded)
        self._leave(row)
        self.exits[row.stage_results[-1].stage - 1] += 1
        row.request.open -= 1
        if not row.request.open:
            self._finish(row.request)

    def _finish(self, request: Request) -> None:
        del self.requests[id(request)]
        rows = tuple(row.answer for row in request.rows if row.answer is not None)
        degraded = any(one.degraded for one in rows)
        said = [] if request.outside is None else [request.outside]
        if degraded:
            said.append("some rows were answered by an earlier stage, as a later one does not answer")
        self.settled.append((request.future, RequestResult(rows, request.point, "; ".join(said) or None)))
        if self._monitor is not None and not degraded and request.last + 1 == len(self.health):
            self._report(request, rows, self._monitor)
        request.rows.clear()

    def _report(self, request: Request, rows: Sequence[RowResult], monitor: QualityMonitor) -> None:
        """Tell the watch of the rows of an answer, and have those that were drawn audited."""
        exits = np.array([one.stage_results[-1].stage for one in rows], dtype=np.int64)
        monitor.record_exits(
            request.point, exits, np.array([one.stage_results[0].confidence for one in rows])
        )
        for row in request.rows:
            if row.audited:
                self._audited().enter(row)
