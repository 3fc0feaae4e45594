"""Which task comes next. No thread, no model and no clock here: the time is an argument."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush

from cascadebert.server.scheduling.batching_plan import BatchingPlan
from cascadebert.server.scheduling.requests import BatchTask, Row, Task, TokenizeTask

AUDIT_PATIENCE = 5.0
"""Seconds that audited rows let all requests go first."""
AUDIT_ROWS = 8
"""Audited rows of one padded length are run together: a row alone takes several times as long."""
PATIENCE = 0.3
"""Of the latency target: rows that came later than that let fuller batches go first."""


class Scheduler:
    """The queues of all stages, over which any worker takes its next task.

    Nothing waits for a timer: while there is a task, an idle worker gets one, and batches form while
    workers are busy. Texts are read first. Then the batch of the row with the oldest deadline is run,
    whatever its stage, if that row has waited for a good part of the latency target. Else batches come first
    that are full, those of the latest stage before the others, and then those of the earliest stage, so that
    rows of different requests gather at the later ones. Audited rows yield for some seconds, and then until
    there are some of one length or nobody waits for anything; they take one worker at most.

    Args:
        plan: sizes of batches.
        stages: how many there are.
        usual: seconds from arrival to deadline of a request that names none.
        target: seconds from arrival to answer that are aimed at.

    Attributes:
        queues: one for each stage.
        auditing: a batch of audited rows is run just now.
    """

    def __init__(self, plan: BatchingPlan, stages: int, *, usual: float, target: float) -> None:
        self.queues = [StageQueue() for _ in range(stages)]
        self.auditing = False
        self._audits = StageQueue()
        self._unread: deque[TokenizeTask] = deque()
        self._plan, self._usual = plan, usual
        self._urgent = usual - PATIENCE * target

    def read(self, task: TokenizeTask) -> None:
        """Have texts turned into tokens."""
        self._unread.append(task)

    def wait(self, row: Row) -> None:
        """Let a row wait for its stage."""
        self.queues[row.stage].put(row, row.request.deadline)

    def audit(self, row: Row) -> None:
        """Let an audited row wait for the last stage."""
        self._audits.put(row, row.request.arrived + self._usual + AUDIT_PATIENCE)

    @property
    def more(self) -> bool:
        """Whether anything waits."""
        return bool(self._unread or self._audits.waiting or any(queue.waiting for queue in self.queues))

    def take(
        self, now: float, answers: Sequence[bool], over: Callable[[Row], bool], *, idle: bool
    ) -> Task | None:
        """The next task, or None.

        Args:
            now: the time.
            answers: (num_stages,) which stages may be given batches.
            idle: no request is in flight.
            over: whether nobody waits for a row any more.
        """
        while self._unread:
            reading = self._unread.popleft()
            if reading.audit or not over(reading.rows[0]):
                reading.started = now
                return reading
        open_ = [number for number, queue in enumerate(self.queues) if answers[number] and queue.waiting]
        found = [self._oldest(number, over) for number in open_]
        best = min(filter(None, found), default=None)
        length = self._audited(now, math.inf if best is None else best[0], idle) if answers[-1] else None
        if length is not None:
            self.auditing = True
            return self._batch(self._audits, len(self.queues) - 1, length, now, lambda _: False)
        if best is None:
            return None
        deadline, number, length = best
        if deadline - now > self._urgent:
            number, length = self._fullest([one for one in open_ if self.queues[one].waiting])
        return self._batch(self.queues[number], number, length, now, over)

    def _audited(self, now: float, before: float, idle: bool) -> int | None:
        """The padded length of audited rows that may be run: those that are due, else some of one length."""
        first = None if self.auditing else self._audits.first()
        if first is None or first[0] >= before:
            return None
        if idle or now >= first[0]:
            return first[1].length
        length = self._audits.most_alike()
        return length if self._audits.alike(length) >= AUDIT_ROWS else None

    def _fullest(self, stages: Sequence[int]) -> tuple[int, int]:
        """The latest of these stages that can fill a batch, else the earliest; and the padded length."""
        lengths = [self.queues[number].most_alike() for number in stages]
        for number, length in zip(reversed(stages), reversed(lengths), strict=True):
            if self.queues[number].alike(length) >= self._plan.most(number, length):
                return number, length
        return stages[0], lengths[0]

    def _oldest(self, number: int, over: Callable[[Row], bool]) -> tuple[float, int, int] | None:
        """The oldest deadline at a stage, the stage, and the padded length."""
        queue = self.queues[number]
        found = queue.first()
        while found is not None and over(found[1]):
            found = queue.first()
        return None if found is None else (found[0], number, found[1].length)

    def _batch(
        self, queue: StageQueue, stage: int, length: int, now: float, over: Callable[[Row], bool]
    ) -> BatchTask:
        lengths = self._plan.lengths[stage].together(length, queue.alike)
        longest = max(lengths)
        waiting = min(sum(map(queue.alike, lengths)), self._plan.most(stage, longest))
        count, size = self._plan.size(stage, waiting)
        return BatchTask(stage, queue.take(lengths, count, over), longest, size, queue is self._audits, now)


class StageQueue:
    """Rows that wait for one stage.

    Rows that are over stay inside until they come to the front, and are passed over there.
    """

    def __init__(self) -> None:
        self._lengths: dict[int, list[tuple[float, int, Row]]] = {}
        self._alike = Counter[int]()
        self._put = 0
        self.waiting = 0

    def put(self, row: Row, deadline: float) -> None:
        """Let a row wait; those of one deadline keep their order."""
        self._put += 1
        self.waiting += 1
        self._alike[row.length] += 1
        row.waiting = True
        heappush(self._lengths.setdefault(row.length, []), (deadline, self._put, row))

    def forget(self, row: Row) -> None:
        """A row that waits here is over."""
        row.waiting = False
        self.waiting -= 1
        self._alike[row.length] -= 1

    def first(self) -> tuple[float, Row] | None:
        """The oldest deadline and its row."""
        best: tuple[float, int, Row] | None = None
        for length in list(self._lengths):
            heap = self._lengths[length]
            while heap and heap[0][2].over:
                heappop(heap)
            if not heap:
                del self._lengths[length]
            elif best is None or heap[0] < best:
                best = heap[0]
        return None if best is None else (best[0], best[2])

    def alike(self, length: int) -> int:
        """Rows of one padded length."""
        return self._alike[length]

    def most_alike(self) -> int:
        """The padded length of most tokens."""
        return max(self._alike, key=lambda length: length * self._alike[length])

    def take(self, lengths: Sequence[int], most: int, over: Callable[[Row], bool]) -> list[Row]:
        """Rows of some padded lengths, the oldest deadlines first.

        Args:
            lengths: padded.
            most: so many at most.
            over: whether nobody waits for a row any more; called just before it is taken.
        """
        heaps, found = [self._lengths.get(length, []) for length in lengths], list[Row]()
        while len(found) < most and (left := [heap for heap in heaps if heap]):
            row = heappop(min(left))[2]
            if not row.over and not over(row):
                found.append(row)
        rows = [row for row in found if not row.over]
        for row in rows:
            self.forget(row)
        return rows

    def rows(self) -> Iterator[Row]:
        """All that wait, in no order."""
        return (row for heap in list(self._lengths.values()) for _, _, row in list(heap) if not row.over)
