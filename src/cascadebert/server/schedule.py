"""Which task comes next. No thread, no model and no clock here: the time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from cascadebert.server.plan import Plan
from cascadebert.server.queues import StageQueue
from cascadebert.server.rows import Batch, Reading, Row, Task

AUDIT_PATIENCE = 5.0
"""Seconds that audited rows let all requests go first."""


class Schedule:
    """The queues of all stages, over which any worker takes its next task.

    Nothing waits for a timer: while there is a task, an idle worker gets one, and batches form while
    workers are busy. Texts are read first. Then the batch is run whose first row has the oldest deadline,
    whatever its stage. Audited rows yield for some seconds, and take one worker at most.

    Args:
        plan: sizes of batches.
        stages: how many there are.
        usual: seconds from arrival to deadline of a request that names none.

    Attributes:
        queues: one for each stage.
        auditing: a batch of audited rows is run just now.
    """

    def __init__(self, plan: Plan, stages: int, *, usual: float) -> None:
        self.queues = [StageQueue() for _ in range(stages)]
        self.auditing = False
        self._audits = StageQueue()
        self._unread: deque[Reading] = deque()
        self._plan, self._usual = plan, usual

    def read(self, task: Reading) -> None:
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

    def take(self, now: float, answers: Sequence[bool], over: Callable[[Row], bool]) -> Task | None:
        """The next task, or None.

        Args:
            now: the time.
            answers: (num_stages,) which stages may be given batches.
            over: whether nobody waits for a row any more.
        """
        while self._unread:
            reading = self._unread.popleft()
            if reading.audit or not over(reading.rows[0]):
                reading.started = now
                return reading
        best: tuple[float, int, int] | None = None
        for number, queue in enumerate(self.queues):
            if answers[number] and queue.waiting:
                best = min(filter(None, (best, self._candidate(number, over))), default=None)
        audit = self._audits.first() if answers[-1] and not self.auditing else None
        if audit is not None and (best is None or audit[0] < best[0]):
            self.auditing = True
            return self._batch(self._audits, len(self.queues) - 1, audit[1].length, now, lambda _: False)
        if best is None:
            return None
        _, number, length = best
        return self._batch(self.queues[number], number, length, now, over)

    def _candidate(self, number: int, over: Callable[[Row], bool]) -> tuple[float, int, int] | None:
        """The oldest deadline at a stage, the stage, and the padded length."""
        queue = self.queues[number]
        found = queue.first()
        while found is not None and over(found[1]):
            found = queue.first()
        return None if found is None else (found[0], number, found[1].length)

    def _batch(
        self, queue: StageQueue, stage: int, length: int, now: float, over: Callable[[Row], bool]
    ) -> Batch:
        waiting = min(queue.alike(length), self._plan.most(stage, length))
        count, size = self._plan.size(stage, waiting)
        return Batch(stage, queue.take(length, count, over), length, size, queue is self._audits, now)
