"""Audited rows that left early: what does the last stage say of them?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cascadebert.server.monitoring.monitor import QualityMonitor
from cascadebert.server.scheduling.batching_plan import BatchingPlan
from cascadebert.server.scheduling.requests import Row, TokenizeTask
from cascadebert.server.scheduling.scheduler import Scheduler


class ShadowQueue:
    """Rows that were answered and have yet to be seen by the last stage. None is ever dropped.

    Args:
        monitor: is told the outcome, in the order in which rows were answered.
        schedule: where they wait.
        plan: how they are run.
        last: number of the last stage, counted from 0.
        key: of its tokenizer.

    Attributes:
        open: rows that the last stage has not seen yet.
    """

    def __init__(
        self, monitor: QualityMonitor, schedule: Scheduler, plan: BatchingPlan, last: int, key: str
    ) -> None:
        self.open = 0
        self._plan = plan
        self._schedule, self._last, self._key = schedule, last, key
        self._line = OrderedReporter(monitor.record_shadow_result)
        self._turns: dict[int, PendingResult] = {}

    @property
    def untold(self) -> int:
        """Rows of which the watch was not told."""
        return len(self._line)

    def enter(self, row: Row) -> None:
        """A row that was drawn at its arrival is answered."""
        turn = self._line.enter(row.request.point, row.request.weight)
        if row.stage_results[-1].stage - 1 == self._last:
            self._line.resolve(turn, True)
            return
        self.open += 1
        copy = Row(
            row.request, row.place, True, self._last, tokens=row.tokens, stage_results=row.stage_results
        )
        self._turns[id(copy)] = turn
        tokens = row.tokens.get(self._key)
        if tokens is None:
            self._schedule.read(TokenizeTask(row.request, self._last, [copy], True, 0.0))
        else:
            copy.length = self._plan.lengths[self._last].waits_at(tokens.length)
            self._schedule.audit(copy)

    def seen(self, rows: Sequence[Row], labels: Sequence[int]) -> None:
        """The last stage gave these rows these labels."""
        for row, label in zip(rows, labels, strict=True):
            self._settle(row, int(row.stage_results[-1].probabilities.argmax()) == label)

    def unreadable(self, rows: Sequence[Row]) -> None:
        """The last stage will never see these rows."""
        for row in rows:
            self._settle(row, None)

    def again(self, rows: Sequence[Row]) -> None:
        """The last stage did not answer; the rows wait on."""
        for row in rows:
            self._schedule.audit(row)

    def _settle(self, row: Row, agreed: bool | None) -> None:
        self.open -= 1
        self._line.resolve(self._turns.pop(id(row)), agreed)


@dataclass
class PendingResult:
    """A row's place in the line."""

    point: int
    weight: float
    known: bool = False
    agreed: bool | None = None


class OrderedReporter:
    """A line of audited rows, those that the last stage answered itself among those that it has yet to check.

    Rows that agree by definition are known at once, the others when there is time. Told as they become known,
    long runs of the one kind would be followed by long runs of the other, and a detector would take such a
    run for a fall of agreement.

    Args:
        tell: is given operating point, verdict and weight of each row, such as `QualityMonitor.record_shadow_result`.

    >>> line = OrderedReporter(lambda point, agreed, weight: print(point, agreed))
    >>> late, gone, early = (line.enter(point, 100.0) for point in (1, 2, 3))
    >>> line.resolve(early, True)
    >>> line.resolve(gone, None)
    >>> len(line)
    3
    >>> line.resolve(late, False)
    1 False
    3 True
    """

    def __init__(self, tell: Callable[[int, bool, float], object]) -> None:
        self._tell, self._line = tell, deque[PendingResult]()

    def __len__(self) -> int:
        """Rows that were not told yet: what `QualityMonitor.report_backlog` asks for."""
        return len(self._line)

    def enter(self, point: int, weight: float) -> PendingResult:
        """A drawn row was answered."""
        turn = PendingResult(point, weight)
        self._line.append(turn)
        return turn

    def resolve(self, turn: PendingResult, agreed: bool | None) -> None:
        """A row's verdict is known; None for a row that will never have one, which leaves the line."""
        turn.known, turn.agreed = True, agreed
        while self._line and self._line[0].known:
            first = self._line.popleft()
            if first.agreed is not None:
                self._tell(first.point, first.agreed, first.weight)
