"""How long a request may be expected to wait: learned from how late answers come. No thread here."""

from __future__ import annotations

MOST, LEAST = 0.5, 0.1
LATE, STEP = 0.005, 0.005
SMALL = 0.125


class Limit:
    """The delay at which requests are refused, so that one answer in 200 comes later than the target.

    Each answer that is late lowers it, each that is not raises it by a 199th of that (stochastic
    approximation of a quantile: Robbins and Monro 1951), between a tenth and half of the target. Expected
    delays are means; how far answers scatter about them depends on the traffic and on the machine.

    Args:
        target: seconds from arrival to answer that are aimed at.

    Attributes:
        seconds: that a request may be expected to wait.

    >>> limit = Limit(0.1)
    >>> for taken in (0.12, 0.12, 0.04):
    ...     limit.answered(taken, own=0.002)
    >>> round(limit.seconds, 6)
    0.049008
    """

    def __init__(self, target: float) -> None:
        self._target, self.seconds = target, MOST * target

    def answered(self, taken: float, *, own: float) -> None:
        """Count an answer, unless its request was so large that no wait but its own could make it late.

        Args:
            taken: seconds from its arrival.
            own: seconds that its rows were expected to take by themselves.
        """
        if own > SMALL * self._target:
            return
        share = LATE - (taken > self._target)
        wanted = self.seconds + STEP * self._target * share
        self.seconds = min(max(wanted, LEAST * self._target), MOST * self._target)
