"""Forms the batches: chooses the next task of a worker. No threads, models or clocks: time is an argument."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from cascadebert.server.config import ServerConfig
from cascadebert.server.scheduling.autotune import BatchingPlan
from cascadebert.server.scheduling.requests import BatchTask, Request, Row, Task, TokenizeTask

SHADOW_YIELD_SECONDS = 5.0  # that shadow rows let all requests go first
SHADOW_BATCH_ROWS = 8  # of one length are run together: a row by itself takes several times as long
URGENT_FRACTION = 0.3  # latency targets that a row waits before fuller batches no longer go first


class Scheduler:
    """The queues of all stages, from which any worker takes its next task.

    Nothing waits for a timer: while there is a task, an idle worker gets one, and batches form while workers
    are busy. Tokenization goes first. Then, if the row with the earliest deadline has waited for a good part
    of the latency target, the batch of that row, whatever its stage. Otherwise full batches, those of the
    latest stage first, and then batches of the earliest stage, so that rows of different requests gather at
    the later ones. Shadow rows yield for some seconds, and then until there are several of one length or
    nothing else is in flight; they occupy one worker at most.
    """

    def __init__(self, plan: BatchingPlan, config: ServerConfig) -> None:
        self.queues = [StageQueue() for _ in plan.stages]
        self.shadow_running = False  # a batch of shadow rows is running
        self._shadow_queue = StageQueue()
        self._untokenized: deque[TokenizeTask] = deque()
        self._plan = plan
        self._shadow_delay = config.default_deadline + SHADOW_YIELD_SECONDS
        self._urgent = config.default_deadline - URGENT_FRACTION * config.latency_target

    def tokenize(self, rows: list[Row]) -> None:
        """Schedule rows of one request for tokenization."""
        self._untokenized.append(TokenizeTask(rows, math.inf))

    def put(self, row: Row) -> None:
        """Queue a row at its stage, a shadow row behind the requests."""
        if row.pending is None:
            self.queues[row.stage].put(row, row.request.deadline)
        else:
            self._shadow_queue.put(row, row.request.arrived + self._shadow_delay)

    @property
    def has_work(self) -> bool:
        """True if anything waits."""
        return bool(self._untokenized or self._shadow_queue.size or any(queue.size for queue in self.queues))

    def take(
        self, now: float, available: Sequence[bool], expire: Callable[[Request], None], *, idle: bool
    ) -> Task | None:
        """The next task, or None; `available` (num_stages,) says which stages may run batches.

        `expire` is called with each request whose deadline turns out to have passed, and must end its rows.
        `idle`: no request is in flight.
        """
        while self._untokenized:
            task = self._untokenized.popleft()
            if _is_alive(task.rows[0], now, expire):
                task.started = now
                return task
        oldest = list[tuple[float, int, int]]()  # deadline, stage and padded length at each available queue
        for stage, queue in enumerate(self.queues):
            first = queue.first() if available[stage] and queue.size else None
            while first is not None and not _is_alive(first[1], now, expire):
                first = queue.first()
            if first is not None:
                oldest.append((first[0], stage, first[1].length))
        best = min(oldest, default=None)
        if available[-1]:
            shadow_length = self._shadow_length(now, math.inf if best is None else best[0], idle)
            if shadow_length is not None:
                self.shadow_running = True
                return self._batch(self._shadow_queue, -1, shadow_length, now)
        if best is None:
            return None
        deadline, stage, length = best
        if deadline - now > self._urgent:
            stage, length = self._fullest([stage for _, stage, _ in oldest])
        return self._batch(self.queues[stage], stage, length, now)

    def _shadow_length(self, now: float, before: float, idle: bool) -> int | None:
        """The padded length of shadow rows that may run: overdue ones, else several of one length."""
        first = None if self.shadow_running else self._shadow_queue.first()
        if first is None or first[0] >= before:
            return None
        if idle or now >= first[0]:
            return first[1].length
        length = self._shadow_queue.largest_bucket()
        return length if self._shadow_queue.count(length) >= SHADOW_BATCH_ROWS else None

    def _fullest(self, stages: Sequence[int]) -> tuple[int, int]:
        """The latest stage that can fill a batch, else the earliest; and the padded length."""
        lengths = [self.queues[stage].largest_bucket() for stage in stages]
        for stage, length in zip(reversed(stages), reversed(lengths), strict=True):
            if self.queues[stage].count(length) >= self._plan.stages[stage].max_rows(length):
                return stage, length
        return stages[0], lengths[0]

    def _batch(self, queue: StageQueue, stage: int, length: int, now: float) -> BatchTask:
        plan = self._plan.stages[stage]
        lengths = plan.buckets.mergeable(length, queue.count)
        longest = max(lengths)
        rows, size = plan.batch_size(min(sum(map(queue.count, lengths)), plan.max_rows(longest)))
        return BatchTask(queue.take(lengths, rows), now, longest, size)


def _is_alive(row: Row, now: float, expire: Callable[[Request], None]) -> bool:
    """True if a row still waits for a result; expires its request if the deadline has passed."""
    if not row.done and row.pending is None and now >= row.request.deadline:
        expire(row.request)
    return not row.done


class StageQueue:
    """Rows that wait for one stage, by padded length and deadline.

    Rows that are done stay in their heap until they come to the front, and are skipped there.
    """

    def __init__(self) -> None:
        self._heaps: dict[int, list[tuple[float, int, Row]]] = {}
        self._counts = Counter[int]()
        self._puts = 0
        self.size = 0

    def put(self, row: Row, deadline: float) -> None:
        """Add a row; rows of one deadline keep their order."""
        self._puts += 1
        self.size += 1
        self._counts[row.length] += 1
        row.queued = True
        heappush(self._heaps.setdefault(row.length, []), (deadline, self._puts, row))

    def remove(self, row: Row) -> None:
        """Take a row out, to run it or because it is done."""
        row.queued = False
        self.size -= 1
        self._counts[row.length] -= 1

    def first(self) -> tuple[float, Row] | None:
        """The earliest deadline and its row."""
        best: tuple[float, int, Row] | None = None
        for length in list(self._heaps):
            heap = self._heaps[length]
            while heap and heap[0][2].done:
                heappop(heap)
            if not heap:
                del self._heaps[length]
            elif best is None or heap[0] < best:
                best = heap[0]
        return None if best is None else (best[0], best[2])

    def count(self, length: int) -> int:
        """Number of rows of a padded length."""
        return self._counts[length]

    def largest_bucket(self) -> int:
        """The padded length with the most tokens."""
        return max(self._counts, key=lambda length: length * self._counts[length])

    def take(self, lengths: Sequence[int], limit: int) -> list[Row]:
        """At most `limit` rows of some padded lengths, the earliest deadlines first."""
        heaps, rows = [self._heaps.get(length, []) for length in lengths], list[Row]()
        while len(rows) < limit and (nonempty := [heap for heap in heaps if heap]):
            row = heappop(min(nonempty))[2]
            if not row.done:
                self.remove(row)
                rows.append(row)
        return rows
