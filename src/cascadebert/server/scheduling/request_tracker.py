"""Tracks in-flight requests: admission, routing, completion. No threads, models or clocks."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np

from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.monitor import QualityMonitor
from cascadebert.server.operating_points import (
    LoadState,
    certified_operating_points,
    next_state,
    why_uncertified,
)
from cascadebert.server.scheduling.autotune import BatchingPlan
from cascadebert.server.scheduling.load_estimator import AdmissionLimit, LoadEstimator
from cascadebert.server.scheduling.ordered_reporter import OrderedReporter
from cascadebert.server.scheduling.requests import BatchTask, Request, Row, Task, TokenizeTask, Tokens
from cascadebert.server.scheduling.result_cache import ResultCache
from cascadebert.server.scheduling.scheduler import Scheduler
from cascadebert.server.scheduling.stage_health import StageHealth
from cascadebert.server.types import (
    DeadlineExceeded,
    DispatcherState,
    Overloaded,
    RequestOptions,
    RequestResult,
    RowResult,
    ServerError,
    StageResult,
    StageState,
    StageUnavailable,
)
from cascadebert.thresholds.routing import StageDecision
from cascadebert.types import Logits, Texts

log = logging.getLogger(__name__)

SWITCH_FRACTION = 0.5  # of the admission limit; a longer delay switches to a faster operating point
MIN_RETRY_SECONDS = 0.05
MAX_WORKER_DEATHS = 1


class RequestTracker:
    """All requests in flight and the operating point; callers hold the lock of the dispatcher."""

    def __init__(
        self, cascade: Cascade, plan: BatchingPlan, config: ServerConfig, monitor: QualityMonitor | None
    ) -> None:
        count, point = len(cascade.stages), cascade.operating_point
        self.load = LoadEstimator([stage.seconds for stage in plan.stages], point.deferral_rates)
        self.admission = AdmissionLimit(config.latency_target)
        self.scheduler = Scheduler(plan, config)
        self.shadow = OrderedReporter(monitor.record_shadow_result if monitor else lambda *_: None)
        self.results, self.health = ResultCache(config.cache_size), [StageHealth() for _ in range(count)]
        self.late: set[Task] = set()  # batches that run for much longer than expected
        self.requests: set[Request] = set()
        self.completed = list[tuple[Future[RequestResult], RequestResult | Exception]]()  # callers take these
        self._inflight = self._cached = 0  # texts without a result; answered with a remembered one so far
        self._exits = [0] * count  # texts that exited at each stage so far
        self._tokens = [0] * count  # padded tokens of the rows at each stage
        self._names = [stage.name for stage in cascade.stages]
        self._keys = [stage.tokenizer.key for stage in cascade.stages]
        self._plan, self._config, self._monitor = plan, config, monitor
        missing = "this cascade has no certificate" if point.certificate is None else None
        self._uncertified_reason = cascade.uncertified_reason or missing
        certified = tuple(entry.thresholds for entry in certified_operating_points(cascade))
        self._operating_points = certified or (point.thresholds,)
        fixed = not config.adaptive and point.thresholds in self._operating_points
        self._load_state = LoadState(self._operating_points.index(point.thresholds) if fixed else 0)
        self._reported_backlog = 0

    @property
    def available(self) -> list[bool]:
        """(num_stages,) which stages may run further batches."""
        available = [health.reason is None for health in self.health]
        for task in self.late:
            available[task.stage] = False
        return available

    @property
    def estimated_delay(self) -> float:
        """Seconds of queueing expected for a request that arrives now."""
        costs = self.load.remaining_costs(self.available)
        return sum(n * cost for n, cost in zip(self._tokens, costs, strict=True)) / self._plan.workers

    @property
    def has_work(self) -> bool:
        """True if requests are in flight, or texts wait for shadow evaluation by a last stage that is up."""
        return bool(self.requests) or (self.shadow.unresolved > 0 and self.health[-1].reason is None)

    def state(self, now: float, *, accepting: bool) -> DispatcherState:
        """A snapshot."""
        stages, queues = [], self.scheduler.queues
        for queue, health, name, exits in zip(queues, self.health, self._names, self._exits, strict=True):
            first, reason = queue.first(), health.reason
            age = 0.0 if first is None else now - first[1].entered
            stages.append(StageState(name, queue.size, age, reason is None, reason, exits))
        return DispatcherState(
            ready=accepting and stages[0].up,
            operating_point=self._load_state.operating_point,
            operating_points=self._operating_points,
            uncertified_reason=self._uncertified_reason,
            switches=self._load_state.switches,
            estimated_delay=self.estimated_delay,
            admission_delay_limit=self.admission.at(now),
            inflight_texts=self._inflight,
            cached_texts=self._cached,
            stages=tuple(stages),
            shadow_backlog=self.shadow.unresolved,
            workers=self._plan.workers,
        )

    def adapt(self, now: float) -> None:
        """Switch the operating point if the load or the monitor asks for it."""
        pinned = self._monitor is not None and self._monitor.wants_safest_point()
        count, previous = len(self._operating_points), self._load_state.operating_point
        if count == 1 or not (self._config.adaptive or pinned):
            return
        delay, limit = self.estimated_delay, SWITCH_FRACTION * self.admission.at(now)
        self._load_state = next_state(self._load_state, delay, now, points=count, limit=limit, pinned=pinned)
        point = self._load_state.operating_point
        if point != previous:
            cause = ", after an alarm of the quality monitor" if pinned else ""
            message = "operating point %d -> %d of %d, at a delay of %.3f s%s"
            log.info(message, previous, point, count - 1, delay, cause)

    def admit(self, texts: Texts, options: RequestOptions, now: float) -> Future[RequestResult]:
        """Admit a request.

        Raises Overloaded if its texts do not fit or would wait too long, StageUnavailable if the first stage
        is down.
        """
        point, available = self._load_state.operating_point, self.available
        last = (options.max_stage or len(available)) - 1
        known = self.results.get_all(texts, point, last)
        unknown = [text for text, result in zip(texts, known, strict=True) if result is None]
        seconds = self._config.default_deadline if options.deadline is None else options.deadline
        tokens = self.load.expected_tokens(unknown) if unknown else 0
        cost = tokens * self.load.remaining_costs(available)[0] / self._plan.workers
        thresholds, delay = self._operating_points[point], self.estimated_delay
        request = Request(texts, last, now, now + seconds, point, thresholds, cost, delay)
        if not len(texts):
            request.future.set_result(RequestResult((), point, self._why_uncertified(request)))
            return request.future
        if self.health[0].reason is not None:
            raise self._unavailable(0)
        if self.requests and unknown:
            self._check_load(request, len(unknown), seconds)
        self._add_rows(request, known, max(1, tokens // max(1, len(unknown))))
        return request.future

    def _add_rows(self, request: Request, known: Sequence[RowResult | None], length: int) -> None:
        """Queue the rows of a request whose result is not known, and those that are shadowed."""
        count = len(known)
        shadowed, stages = np.zeros(count, dtype=np.bool_), len(self.health)
        if self._monitor is not None and 0 < request.last == stages - 1 and all(self.available):
            shadowed, request.weight = self._monitor.sample_arrivals(count)
        for index, (result, selected) in enumerate(zip(known, shadowed.tolist(), strict=True)):
            row = Row(request, index, selected, entered=request.arrived, length=length)
            request.rows.append(row)
            if result is not None and not selected:
                row.result, row.stage_results, row.done = result, list(result.stage_results), True
                self._exits[result.stage_results[-1].stage - 1] += 1
        self.requests.add(request)
        queued = [row for row in request.rows if not row.done]
        self._cached += count - len(queued)
        request.unfinished = len(queued)
        self._inflight += len(queued)
        self._tokens[0] += length * len(queued)
        if queued:
            self.scheduler.tokenize(queued)
        else:
            self._finish(request)

    def _check_load(self, request: Request, count: int, seconds: float) -> None:
        delay, limit = request.delay, self.admission.at(request.arrived)
        retry_after = max(MIN_RETRY_SECONDS, delay - limit / 2)
        if self._inflight + count > self._config.max_queue_size:
            message = f"{self._inflight} texts are queued or running, no room for {count} more"
            raise Overloaded(message, retry_after)
        if delay > limit or delay + request.cost > seconds:
            raise Overloaded(f"a request would wait {delay:.3f} seconds", retry_after)

    def take(self, now: float) -> Task | None:
        """The next task; None if there is nothing to do."""
        return self.scheduler.take(now, self.available, self._expire, idle=not self.requests)

    def tokenized(self, task: TokenizeTask, tokens: Sequence[Tokens], now: float) -> None:
        """Queue the rows of a task, which now have their tokens."""
        if task.stage == 0:
            total = sum(row_tokens.length for row_tokens in tokens)
            texts = [task.request.texts[row.index] for row in task.rows]
            self.load.record_tokenization(texts, total, now - task.started)
        key = self._keys[task.stage]
        for row, row_tokens in zip(task.rows, tokens, strict=True):
            row.tokens[key] = row_tokens
            if not row.done:
                self._enqueue(row)

    def fail_tokenization(self, task: TokenizeTask, error: Exception) -> None:
        """Fail the request of texts that cannot be tokenized."""
        if task.shadow:
            self._resolve_shadow(task, [None] * len(task.rows))
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
            self.scheduler.shadow_running = False
            self._resolve_shadow(task, decision.probabilities.argmax(axis=1).tolist())
            return
        number, deferred = task.stage + 1, list[Row]()
        confidences, exits = decision.confidences.tolist(), decision.exits.tolist()
        columns = zip(
            task.rows, logits.astype(np.float64), decision.probabilities, confidences, exits, strict=True
        )
        for row, row_logits, probabilities, confidence, exits_here in columns:
            if row.done:
                continue
            row.stage_results.append(StageResult(number, probabilities, confidence, now - row.entered))
            row.logits = row_logits
            request = row.request
            if exits_here or task.stage == request.last:
                self._complete(row, degraded=False)
                if not request.unfinished:
                    self.admission.record(now - request.arrived, request.delay, cost=request.cost, now=now)
            else:
                deferred.append(row)
        self.load.record_batch(task.stage, task.tokens, seconds, deferred=task.length * len(deferred))
        self._defer(deferred, number, now)

    def _resolve_shadow(self, task: Task, labels: Sequence[int | None]) -> None:
        """Report the last stage's labels of shadow rows, or None where it will never give any."""
        for row, label in zip(task.rows, labels, strict=True):
            assert row.pending is not None
            predicted = int(row.stage_results[-1].probabilities.argmax())
            self.shadow.resolve(row.pending, None if label is None else predicted == label)

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
        stage = task.stage
        self.health[stage].reason = reason
        for request in list(self.requests):
            for row in list(request.rows):
                if row.queued and row.stage == stage:
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
        self.requests.remove(request)
        for row in request.rows:
            if not row.done:
                self._leave(row)
        request.rows.clear()  # breaks the reference cycle
        self.completed.append((request.future, error))

    def sweep(self, now: float) -> None:
        """End requests that were cancelled or whose deadline has passed; report the shadow backlog."""
        for request in list(self.requests):
            if request.future.cancelled():
                self.end(request, DeadlineExceeded("the client cancelled the request"))
            elif now >= request.deadline:
                self._expire(request)
        if self._monitor is not None and len(self.shadow) != self._reported_backlog:
            self._reported_backlog = len(self.shadow)
            self._monitor.report_backlog(self._reported_backlog)

    def _expire(self, request: Request) -> None:
        """End a request at its deadline; if it lacks unavailable stages only, without them."""
        rows, available = [row for row in request.rows if not row.done], self.available
        degrade = self._config.on_last_stage_failure == "degrade"
        if degrade and all(row.stage_results and not available[row.stage] for row in rows):
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
        self._inflight -= 1
        self._tokens[row.stage] -= row.length

    def _complete(self, row: Row, *, degraded: bool) -> None:
        assert row.logits is not None
        truncated = row.tokens[self._keys[row.stage_results[-1].stage - 1]].truncated
        row.result = RowResult(tuple(row.stage_results), row.logits, degraded, truncated)
        self.results.put(row)
        self._leave(row)
        self._exits[row.stage_results[-1].stage - 1] += 1
        row.request.unfinished -= 1
        if not row.request.unfinished:
            self._finish(row.request)

    def _finish(self, request: Request) -> None:
        self.requests.remove(request)
        rows = tuple(row.result for row in request.rows if row.result is not None)
        degraded = any(row.degraded for row in rows)
        reason = self._why_uncertified(request, degraded=degraded)
        self.completed.append((request.future, RequestResult(rows, request.operating_point, reason)))
        if self._monitor is not None and not degraded and request.last + 1 == len(self.health):
            exits = np.array([row.stage_results[-1].stage for row in rows], dtype=np.int64)
            confidences = np.array([row.stage_results[0].confidence for row in rows])
            self._monitor.record_exits(request.operating_point, exits, confidences)
            for row in request.rows:
                if row.shadowed:
                    self._evaluate_in_shadow(row)
        request.rows.clear()  # breaks the reference cycle

    def _why_uncertified(self, request: Request, *, degraded: bool = False) -> str | None:
        max_stage = request.last + 1 if request.last + 1 < len(self.health) else None
        return why_uncertified(self._uncertified_reason, max_stage=max_stage, degraded=degraded)

    def _evaluate_in_shadow(self, row: Row) -> None:
        """Have a completed row evaluated by the last stage too, unless that predicted it."""
        last, request = len(self.health) - 1, row.request
        pending = self.shadow.add(request.operating_point, request.weight)
        if row.stage_results[-1].stage == last + 1:
            self.shadow.resolve(pending, True)
            return
        shadow = replace(row, stage=last, done=False, worker_deaths=0, pending=pending)
        if self._keys[last] in row.tokens:
            self._enqueue(shadow)
        else:
            self.scheduler.tokenize([shadow])
