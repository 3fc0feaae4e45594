"""Reports shadow results in the order in which texts were answered, however late each is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class PendingResult:
    """The shadow result of one text, from its response on."""

    operating_point: int
    weight: float
    resolved: bool = False
    agreed: bool | None = None  # None if the last stage never evaluates the text


class OrderedReporter:
    """Reorder buffer of shadow results.

    Texts that exited at the last stage agree by definition and are resolved at once, the others when there is
    time. Reported as they are resolved, long runs of one kind would follow long runs of the other, and a
    detector would take such a run for a fall of agreement. `report` is called with operating point,
    agreement and weight, as `QualityMonitor.record_shadow_result` is.

    >>> reporter = OrderedReporter(lambda point, agreed, weight: print(point, agreed))
    >>> late, lost, early = (reporter.add(point, 100.0) for point in (1, 2, 3))
    >>> reporter.resolve(early, True)
    >>> reporter.resolve(lost, None)
    >>> len(reporter), reporter.unresolved
    (3, 1)
    >>> reporter.resolve(late, False)
    1 False
    3 True
    """

    def __init__(self, report: Callable[[int, bool, float], object]) -> None:
        self._report, self._buffer = report, deque[PendingResult]()
        self.unresolved = 0

    def __len__(self) -> int:
        """Number of results not reported yet."""
        return len(self._buffer)

    def add(self, operating_point: int, weight: float) -> PendingResult:
        """Append a text that was answered just now."""
        pending = PendingResult(operating_point, weight)
        self._buffer.append(pending)
        self.unresolved += 1
        return pending

    def resolve(self, pending: PendingResult, agreed: bool | None) -> None:
        """Set a result, and report those that nothing before them holds up; None is never reported."""
        pending.resolved, pending.agreed = True, agreed
        self.unresolved -= 1
        while self._buffer and self._buffer[0].resolved:
            first = self._buffer.popleft()
            if first.agreed is not None:
                self._report(first.operating_point, first.agreed, first.weight)
