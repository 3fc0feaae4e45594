"""Tracks in-flight requests: admission, routing, completion. No threads, models or clocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.monitor import QualityMonitor
from cascadebert.server.scheduling.batching_plan import BatchingPlan
from cascadebert.server.scheduling.load_estimator import AdmissionLimit, LoadEstimator
from cascadebert.server.scheduling.ordered_reporter import OrderedReporter
from cascadebert.server.scheduling.requests import BatchTask, Request, Row, Task, TokenizeTask, Tokens
from cascadebert.server.scheduling.scheduler import Scheduler
from cascadebert.server.types import (
    DeadlineExceeded,
    Overloaded,
    RequestResult,
    RowResult,
    ServerError,
    StageResult,
    StageUnavailable,
)
from cascadebert.thresholds.routing import StageDecision
from cascadebert.types import Logits

MIN_RETRY_SECONDS = 0.05
MAX_WORKER_DEATHS = 1


@dataclass(slots=True)
class StageHealth:
    """Health of one stage."""

    reason: str | None = None  # why it is down; None while it is up
    late: set[BatchTask] = field(default_factory=set)  # running for much longer than expected
    warmed_up: bool = True
    probes: int = 0  # running attempts to reach it while it is down
    next_probe: float = 0.0  # in seconds on the dispatcher's clock

    @property
    def available(self) -> bool:
        """Whether it may run further batches."""
        return self.reason is None and not self.late


class RequestTracker:
    """All requests in flight; callers hold the lock of the worker pool."""

    def __init__(
        self,
        cascade: Cascade,
        plan: BatchingPlan,
        config: ServerConfig,
        monitor: QualityMonitor | None = None,
    ) -> None:
        count, metrics = len(cascade.stages), cascade.operating_point.metrics
        rates = (1 / count,) * count if metrics is None else metrics.exit_rates
        reached = np.maximum(np.cumsum(rates[::-1])[::-1], 1e-6)
        self.load = LoadEstimator(
            [stage.seconds for stage in plan.stages], (reached[1:] / reached[:-1]).tolist()
        )
        self.admission = AdmissionLimit(config.latency_target)
        self.scheduler = Scheduler(plan, config)
        self.shadow = None if monitor is None else OrderedReporter(monitor.record_shadow_result)
        self.health = [StageHealth() for _ in range(count)]
        self.requests: set[Request] = set()
        self.inflight = 0  # texts of these without a result
        self.exits = [0] * count  # texts that exited at each stage so far
        self.completed: list[
            tuple[Future[RequestResult], RequestResult | Exception]
        ] = []  # callers take these
        self._tokens = [0] * count  # padded tokens of the rows at each stage
        self._names = [stage.name for stage in cascade.stages]
        self._keys = [stage.tokenizer.key for stage in cascade.stages]
        self._plan, self._config, self._monitor = plan, config, monitor

    @property
    def available(self) -> list[bool]:
        """(num_stages,) which stages may run batches."""
        return [health.available for health in self.health]

    @property
    def estimated_delay(self) -> float:
        """Seconds of queueing expected for a request that arrives now."""
        costs = self.load.remaining_costs(self.available)
        return sum(n * cost for n, cost in zip(self._tokens, costs, strict=True)) / self._plan.workers

    def admit(self, request: Request) -> None:
        """Admit a request of one text or more.

        Raises Overloaded if its texts do not fit or would wait too long, StageUnavailable if the first stage
        is down.
        """
        if self.health[0].reason is not None:
            raise self._unavailable(0)
        count, available = len(request.texts), self.available
        tokens = self.load.expected_tokens(request.characters)
        request.cost = tokens * self.load.remaining_costs(available)[0] / self._plan.workers
        if self.requests:
            self._check_load(request)
        shadowed = np.zeros(count, dtype=np.bool_)
        if self._monitor is not None and 0 < request.last == len(available) - 1 and all(available):
            shadowed, request.weight = self._monitor.sample_arrivals(count), self._monitor.weight()
        length = max(1, tokens // count)
        for index, selected in enumerate(shadowed.tolist()):
            request.rows.append(Row(request, index, selected, entered=request.arrived, length=length))
        request.unfinished = count
        self.requests.add(request)
        self.inflight += count
        self._tokens[0] += length * count
        self.scheduler.tokenize(list(request.rows))

    def _check_load(self, request: Request) -> None:
        count, delay, limit = len(request.texts), self.estimated_delay, self.admission.seconds
        retry_after = max(MIN_RETRY_SECONDS, delay - limit / 2)
        if self.inflight + count > self._config.max_queue_size:
            raise Overloaded(
                f"{self.inflight} texts are queued; there is no room for {count} more", retry_after
            )
        if delay > limit or request.arrived + delay + request.cost > request.deadline:
            raise Overloaded(f"a request would wait {delay:.3f} seconds at present", retry_after)

    def take(self, now: float) -> Task | None:
        """The next task; None if there is nothing to do."""
        return self.scheduler.take(now, self.available, self._expire, idle=not self.requests)

    def tokenized(self, task: TokenizeTask, tokens: Sequence[Tokens], now: float) -> None:
        """Queue the rows of a task, which now have their tokens."""
        if task.stage == 0:
            total = sum(row_tokens.length for row_tokens in tokens)
            self.load.record_tokenization(task.request.characters, total, now - task.started)
        key = self._keys[task.stage]
        for row, row_tokens in zip(task.rows, tokens, strict=True):
            row.tokens[key] = row_tokens
            if not row.done:
                self._enqueue(row)

    def fail_tokenization(self, task: TokenizeTask, error: Exception) -> None:
        """Fail the request of texts that cannot be tokenized."""
        if self.shadow is not None and task.shadow:
            for row in task.rows:
                assert row.pending is not None
                self.shadow.resolve(row.pending, None)
        elif task.request in self.requests:
            self.end(task.request, error)

    def _enqueue(self, row: Row) -> None:
        """Queue a row whose tokens are known; while its stage is down, a request goes without that stage."""
        stage = row.stage
        if row.pending is None and self.health[stage].reason is not None:
            self._skip_stage(row)
            return
        length = self._plan.stages[stage].buckets.bucket_for(row.tokens[self._keys[stage]].length)
        if row.pending is None:
            self._tokens[stage] += length - row.length
        row.length = length
        self.scheduler.put(row)

    def ran(self, task: BatchTask, logits: Logits, decision: StageDecision, now: float) -> None:
        """Complete the rows of a batch that exit, and defer the others; `logits` are unscaled."""
        seconds = now - task.started
        if task.shadow:
            self.load.record_batch(task.stage, task.tokens, seconds)
            self._ran_shadow(task, decision)
            return
        deferred = list[Row]()
        confidences, exits = decision.confidences.tolist(), decision.exits.tolist()
        columns = zip(
            task.rows, logits.astype(np.float64), decision.probabilities, confidences, exits, strict=True
        )
        for row, row_logits, probabilities, confidence, exits_here in columns:
            if row.done:
                continue
            row.stage_results.append(
                StageResult(task.stage + 1, probabilities, confidence, now - row.entered)
            )
            row.logits = row_logits
            request = row.request
            if exits_here or task.stage == request.last:
                self._complete(row, degraded=False)
                if not request.unfinished:
                    self.admission.record(now - request.arrived, cost=request.cost)
            else:
                deferred.append(row)
        self.load.record_batch(task.stage, task.tokens, seconds, deferred=task.length * len(deferred))
        self._defer(deferred, task.stage + 1, now)

    def _ran_shadow(self, task: BatchTask, decision: StageDecision) -> None:
        assert self.shadow is not None
        self.scheduler.shadow_running = False
        for row, label in zip(task.rows, decision.probabilities.argmax(axis=1).tolist(), strict=True):
            assert row.pending is not None
            predicted = int(row.stage_results[-1].probabilities.argmax())
            self.shadow.resolve(row.pending, predicted == label)

    def _defer(self, rows: Sequence[Row], stage: int, now: float) -> None:
        """Move rows to a later stage; those that have no tokens of its tokenizer yet are tokenized first."""
        untokenized = defaultdict[Request, list[Row]](list)
        for row in rows:
            if row.done:
                continue
            self._tokens[row.stage] -= row.length
            self._tokens[stage] += row.length
            row.stage, row.entered = stage, now
            if self._keys[stage] in row.tokens:
                self._enqueue(row)
            else:
                untokenized[row.request].append(row)
        for request_rows in untokenized.values():
            self.scheduler.tokenize(request_rows)

    def failed(self, task: BatchTask, reason: str) -> None:
        """Mark a stage that raised or hung as down; the rows that wait for it go on without it."""
        self.health[task.stage].reason = reason
        for row in list(self.scheduler.queues[task.stage].rows()):
            if not row.done:  # the end of a request ends all of its rows
                self._skip_stage(row)
        self._requeue(task)

    def worker_died(self, task: Task) -> None:
        """Run the task of a dead worker thread once more; a second death is the fault of stage or texts."""
        for row in task.rows:
            row.worker_deaths += 1
        again = all(row.worker_deaths <= MAX_WORKER_DEATHS for row in task.rows)
        if isinstance(task, BatchTask):
            if again:
                self._requeue(task)
            else:
                self.failed(task, "its worker threads die")
        elif again:
            self.scheduler.tokenize(task.rows)
        else:
            self.fail_tokenization(task, ServerError("the texts could not be tokenized: worker threads die"))

    def _requeue(self, task: BatchTask) -> None:
        if task.shadow:
            self.scheduler.shadow_running = False
        for row in task.rows:
            if not row.done:
                self._enqueue(row)

    def end(self, request: Request, error: Exception) -> None:
        """Fail a request; its rows are dropped."""
        self.requests.discard(request)
        for row in request.rows:
            if not row.done:
                self._leave(row)
        request.rows.clear()  # breaks the reference cycle
        self.completed.append((request.future, error))

    def sweep(self, now: float) -> None:
        """End the requests that were cancelled or whose deadline has passed."""
        for request in list(self.requests):
            if request.future.cancelled():
                self.end(request, DeadlineExceeded("the client cancelled the request"))
            elif now >= request.deadline:
                self._expire(request)

    def _expire(self, request: Request) -> None:
        """End a request at its deadline; if it lacks unavailable stages only, without them."""
        rows = [row for row in request.rows if not row.done]
        degrade = self._config.on_last_stage_failure == "degrade"
        if degrade and all(row.stage_results and not self.health[row.stage].available for row in rows):
            for row in rows:
                self._complete(row, degraded=True)
        else:
            self.end(request, DeadlineExceeded("the deadline passed before the result was complete"))

    def _unavailable(self, stage: int) -> StageUnavailable:
        reason = self.health[stage].reason
        return StageUnavailable(f"stage {stage + 1} ({self._names[stage]}) is unavailable: {reason}")

    def _skip_stage(self, row: Row) -> None:
        """Complete a row without the stage at which it is, or fail its request."""
        if self._config.on_last_stage_failure == "degrade" and row.stage_results:
            self._complete(row, degraded=True)
        else:
            self.end(row.request, self._unavailable(row.stage))

    def _leave(self, row: Row) -> None:
        if row.queued:
            self.scheduler.queues[row.stage].remove(row)
        row.done = True
        self.inflight -= 1
        self._tokens[row.stage] -= row.length

    def _complete(self, row: Row, *, degraded: bool) -> None:
        assert row.logits is not None
        row.result = RowResult(tuple(row.stage_results), row.logits, degraded)
        self._leave(row)
        self.exits[row.stage_results[-1].stage - 1] += 1
        row.request.unfinished -= 1
        if not row.request.unfinished:
            self._finish(row.request)

    def _finish(self, request: Request) -> None:
        self.requests.discard(request)
        rows = tuple(row.result for row in request.rows if row.result is not None)
        degraded = any(row.degraded for row in rows)
        reasons = [] if request.uncertified_reason is None else [request.uncertified_reason]
        if degraded:
            reasons.append("an earlier stage predicted for some texts, as a later one is unavailable")
        result = RequestResult(rows, request.operating_point, "; ".join(reasons) or None)
        self.completed.append((request.future, result))
        if self._monitor is not None and not degraded and request.last + 1 == len(self.health):
            exits = np.array([row.stage_results[-1].stage for row in rows], dtype=np.int64)
            confidences = np.array([row.stage_results[0].confidence for row in rows])
            self._monitor.record_exits(request.operating_point, exits, confidences)
            for row in request.rows:
                if row.shadowed:
                    self._evaluate_in_shadow(row)
        request.rows.clear()  # breaks the reference cycle

    def _evaluate_in_shadow(self, row: Row) -> None:
        """Have a completed row evaluated by the last stage too, unless that predicted it."""
        assert self.shadow is not None
        last, request = len(self.health) - 1, row.request
        pending = self.shadow.add(request.operating_point, request.weight)
        if row.stage_results[-1].stage == last + 1:
            self.shadow.resolve(pending, True)
            return
        shadow = Row(
            request,
            row.index,
            stage=last,
            tokens=row.tokens,
            stage_results=row.stage_results,
            pending=pending,
        )
        if self._keys[last] in row.tokens:
            self._enqueue(shadow)
        else:
            self.scheduler.tokenize([shadow])
