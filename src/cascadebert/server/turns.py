"""Audited rows are told in the order of their entry, in whatever order they were checked. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Turn:
    """A row's place in the line."""

    point: int
    weight: float
    known: bool = False
    agreed: bool | None = None


class Turns:
    """A line of audited rows, those that the last stage answered itself among those that it has yet to check.

    Rows that agree by definition are known at once, the others when there is time. Told as they become known,
    long runs of the one kind would be followed by long runs of the other, and a detector would take such a
    run for a fall of agreement.

    Args:
        tell: is given operating point, verdict and weight of each row, such as `Watch.audited`.

    >>> line = Turns(lambda point, agreed, weight: print(point, agreed))
    >>> late, gone, early = (line.enter(point, 100.0) for point in (1, 2, 3))
    >>> line.settle(early, True)
    >>> line.settle(gone, None)
    >>> len(line)
    3
    >>> line.settle(late, False)
    1 False
    3 True
    """

    def __init__(self, tell: Callable[[int, bool, float], object]) -> None:
        self._tell, self._line = tell, deque[Turn]()

    def __len__(self) -> int:
        """Rows that were not told yet: what `Watch.backlog` asks for."""
        return len(self._line)

    def enter(self, point: int, weight: float) -> Turn:
        """A drawn row was answered."""
        turn = Turn(point, weight)
        self._line.append(turn)
        return turn

    def settle(self, turn: Turn, agreed: bool | None) -> None:
        """A row's verdict is known; None for a row that will never have one, which leaves the line."""
        turn.known, turn.agreed = True, agreed
        while self._line and self._line[0].known:
            first = self._line.popleft()
            if first.agreed is not None:
                self._tell(first.point, first.agreed, first.weight)
