"""Audited rows that left early: what does the last stage say of them?"""

from __future__ import annotations

from collections.abc import Sequence

from cascadebert.server.plan import Plan
from cascadebert.server.rows import Reading, Row
from cascadebert.server.schedule import Schedule
from cascadebert.server.turns import Turn, Turns
from cascadebert.server.values import Watch


class Audits:
    """Rows that were answered and have yet to be seen by the last stage. None is ever dropped.

    Args:
        watch: is told the outcome, in the order in which rows were answered.
        schedule: where they wait.
        plan: how they are run.
        last: number of the last stage, counted from 0.
        key: of its tokenizer.

    Attributes:
        open: rows that the last stage has not seen yet.
    """

    def __init__(self, watch: Watch, schedule: Schedule, plan: Plan, last: int, key: str) -> None:
        self.open = 0
        self._plan = plan
        self._schedule, self._last, self._key = schedule, last, key
        self._line = Turns(watch.audited)
        self._turns: dict[int, Turn] = {}

    @property
    def untold(self) -> int:
        """Rows of which the watch was not told."""
        return len(self._line)

    def enter(self, row: Row) -> None:
        """A row that was drawn at its arrival is answered."""
        turn = self._line.enter(row.request.point, row.request.weight)
        if row.visits[-1].stage - 1 == self._last:
            self._line.settle(turn, True)
            return
        self.open += 1
        copy = Row(row.request, row.place, True, self._last, tokens=row.tokens, visits=row.visits)
        self._turns[id(copy)] = turn
        tokens = row.tokens.get(self._key)
        if tokens is None:
            self._schedule.read(Reading(row.request, self._last, [copy], True, 0.0))
        else:
            copy.length = self._plan.lengths[self._last].waits_at(tokens.length)
            self._schedule.audit(copy)

    def seen(self, rows: Sequence[Row], labels: Sequence[int]) -> None:
        """The last stage gave these rows these labels."""
        for row, label in zip(rows, labels, strict=True):
            self._settle(row, int(row.visits[-1].probabilities.argmax()) == label)

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
        self._line.settle(self._turns.pop(id(row)), agreed)
