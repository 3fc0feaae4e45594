"""Rows that wait for a stage: by padded length, the oldest deadline first. No thread here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush

from cascadebert.server.rows import Row


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
