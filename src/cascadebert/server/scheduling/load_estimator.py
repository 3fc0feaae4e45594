"""What a token costs at each stage, and how many go on: means that forget. No thread here."""

from __future__ import annotations

from collections.abc import Sequence

KEEP = 0.98
FIRST_TOKENS = 1024
TOKENS_PER_CHARACTER, SECONDS_PER_TOKEN_READ = 0.3, 1e-6


class DecayingRatio:
    """A sum over another, of which each addition forgets two hundredths."""

    def __init__(self, value: float, weight: float) -> None:
        self._above, self._below = value * weight, weight

    def add(self, above: float, below: float) -> None:
        """Count an observation."""
        self._above = KEEP * self._above + above
        self._below = KEEP * self._below + below

    @property
    def value(self) -> float:
        """Above over below."""
        return self._above / self._below


class LoadEstimator:
    """How fast rows are answered.

    Args:
        seconds: (num_stages,) of a token at each stage, as measured at the start.
        passed: (num_stages - 1,) share of the tokens that each stage passes on, as far as known.
    """

    def __init__(self, seconds: Sequence[float], passed: Sequence[float]) -> None:
        self._seconds = [DecayingRatio(one, FIRST_TOKENS) for one in seconds]
        self._passed = [DecayingRatio(one, FIRST_TOKENS) for one in passed]
        self._size = DecayingRatio(TOKENS_PER_CHARACTER, FIRST_TOKENS)
        self._reading = DecayingRatio(SECONDS_PER_TOKEN_READ, FIRST_TOKENS)

    def read(self, characters: int, tokens: int, seconds: float) -> None:
        """A request was turned into tokens."""
        self._size.add(tokens, max(1, characters))
        self._reading.add(seconds, max(1, tokens))

    def ran(self, stage: int, tokens: int, seconds: float) -> None:
        """A stage, counted from 0, ran a batch of so many padded tokens."""
        self._seconds[stage].add(seconds, tokens)

    def passed(self, stage: int, tokens: int, of: int) -> None:
        """A stage passed on so many of the tokens that it ran."""
        self._passed[stage].add(tokens, of)

    def tokens(self, characters: int) -> int:
        """That a text of so many characters is expected to have."""
        return max(1, round(characters * self._size.value))

    def batch(self, stage: int, tokens: int) -> float:
        """Seconds that a batch is expected to take."""
        return self._seconds[stage].value * tokens

    def onward(self, answers: Sequence[bool]) -> list[float]:
        """Worker seconds that a token waiting at each stage still needs, there and later.

        Args:
            answers: (num_stages,) which stages answer at present; the others cost nothing.
        """
        costs, later = list[float](), 0.0
        for stage in reversed(range(len(self._seconds))):
            share = self._passed[stage].value if stage < len(self._passed) else 0.0
            later = self._seconds[stage].value + share * later if answers[stage] else 0.0
            costs.append(later)
        costs[-1] += self._reading.value
        return costs[::-1]


MOST, LEAST = 0.5, 0.1
LATE, STEP = 0.005, 0.005
SMALL = 0.125


class AdmissionLimit:
    """The delay at which requests are refused, so that one answer in 200 comes later than the target.

    Each answer that is late lowers it, each that is not raises it by a 199th of that (stochastic
    approximation of a quantile: Robbins and Monro 1951), between a tenth and half of the target. Expected
    delays are means; how far answers scatter about them depends on the traffic and on the machine.

    Args:
        target: seconds from arrival to answer that are aimed at.

    Attributes:
        seconds: that a request may be expected to wait.

    >>> limit = AdmissionLimit(0.1)
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
