"""What a token costs at each stage, and how many go on: means that forget. No thread here."""

from __future__ import annotations

from collections.abc import Sequence

KEEP = 0.98
FIRST_TOKENS = 1024
TOKENS_PER_CHARACTER, SECONDS_PER_TOKEN_READ = 0.3, 1e-6


class Ratio:
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


class Pace:
    """How fast rows are answered.

    Args:
        seconds: (num_stages,) of a token at each stage, as measured at the start.
        passed: (num_stages - 1,) share of the tokens that each stage passes on, as far as known.
    """

    def __init__(self, seconds: Sequence[float], passed: Sequence[float]) -> None:
        self._seconds = [Ratio(one, FIRST_TOKENS) for one in seconds]
        self._passed = [Ratio(one, FIRST_TOKENS) for one in passed]
        self._size = Ratio(TOKENS_PER_CHARACTER, FIRST_TOKENS)
        self._reading = Ratio(SECONDS_PER_TOKEN_READ, FIRST_TOKENS)

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
