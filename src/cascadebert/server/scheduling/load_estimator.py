"""Exponentially weighted estimates of cost and deferral, and the admission limit derived from latencies."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence

AnyText = str | Sequence[str]

DECAY = 0.98
PRIOR_TOKENS = 1024
TOKENS_PER_CHARACTER, TOKENIZER_SECONDS_PER_TOKEN = 0.3, 1e-6

# In latency targets: what latencies may reach, bounds of the admission limit, excess where none is observed,
# and for how long one counts.
GOAL, MIN_LIMIT, MAX_LIMIT, PRIOR_EXCESS, MAX_AGE = 0.95, 0.1, 0.9, 0.35, 20
WINDOW, QUANTILE = 300, 0.99
NEAR_LIMIT = 0.5
SMALL_REQUEST = 0.125  # in latency targets


class DecayingRatio:
    """Ratio of two sums that decay by a fiftieth with each observation."""

    def __init__(self, value: float, weight: float) -> None:
        self._numerator, self._denominator = value * weight, weight

    def add(self, numerator: float, denominator: float) -> None:
        """Record an observation."""
        self._numerator = DECAY * self._numerator + numerator
        self._denominator = DECAY * self._denominator + denominator

    @property
    def value(self) -> float:
        """The current ratio."""
        return self._numerator / self._denominator


class LoadEstimator:
    """Estimates the worker time that texts still need.

    `seconds` (num_stages,) of a token at each stage and `deferred` (num_stages - 1,) fractions of the tokens
    that each stage defers are the prior; both are updated by what is observed.
    """

    def __init__(self, seconds: Sequence[float], deferred: Sequence[float]) -> None:
        self._seconds = [DecayingRatio(value, PRIOR_TOKENS) for value in seconds]
        self._deferred = [DecayingRatio(value, PRIOR_TOKENS) for value in deferred]
        self._tokens_per_character = DecayingRatio(TOKENS_PER_CHARACTER, PRIOR_TOKENS)
        self._tokenizer_seconds = DecayingRatio(TOKENIZER_SECONDS_PER_TOKEN, PRIOR_TOKENS)

    def record_tokenization(self, texts: Iterable[AnyText], tokens: int, seconds: float) -> None:
        """Record that texts were tokenized."""
        self._tokens_per_character.add(tokens, max(1, _count_characters(texts)))
        self._tokenizer_seconds.add(seconds, max(1, tokens))

    def record_batch(self, stage: int, tokens: int, seconds: float, *, deferred: int | None = None) -> None:
        """Record a batch of `tokens` padded tokens, of which `deferred` went on to the next stage."""
        self._seconds[stage].add(seconds, tokens)
        if deferred is not None and stage < len(self._deferred):
            self._deferred[stage].add(deferred, tokens)

    def expected_tokens(self, texts: Iterable[AnyText]) -> int:
        """Expected number of tokens of all texts."""
        return max(1, round(_count_characters(texts) * self._tokens_per_character.value))

    def batch_seconds(self, stage: int, tokens: int) -> float:
        """Expected seconds of a batch."""
        return self._seconds[stage].value * tokens

    def remaining_costs(self, available: Sequence[bool]) -> list[float]:
        """(num_stages,) worker seconds that a token queued at each stage needs, there and later."""
        costs, later = list[float](), 0.0
        for stage in reversed(range(len(self._seconds))):
            deferred = self._deferred[stage].value if stage < len(self._deferred) else 0.0
            later = self._seconds[stage].value + deferred * later if available[stage] else 0.0
            costs.append(later)
        costs[-1] += self._tokenizer_seconds.value
        return costs[::-1]


class AdmissionLimit:
    """Admission limit: the longest estimated delay with which 99 % of responses meet the latency target.

    Estimated delays are means; by how much latencies exceed them depends on traffic and machine. The limit is
    95 % of the target less the 99th percentile of such excesses, of the last 300 requests that were admitted
    near the limit and answered within the last 20 targets. So it admits a burst that can be answered in time,
    falls as soon as an overload makes some late, and forgets a pause of the machine. Times are in seconds.

    >>> limit = AdmissionLimit(0.1)
    >>> round(limit.at(0.0), 6)
    0.06
    >>> for _ in range(300):
    ...     limit.record(latency=0.05, delay=0.04, cost=0.002, now=1.0)
    >>> round(limit.at(1.0), 6), round(limit.at(4.0), 6)
    (0.085, 0.06)
    """

    def __init__(self, latency_target: float) -> None:
        self._target = latency_target
        self._observed = deque[tuple[float, float]]()  # time and excess, the oldest first
        self._sorted = [PRIOR_EXCESS * latency_target] * WINDOW  # of these, filled up with the prior

    def at(self, now: float) -> float:
        """The limit at a time."""
        while self._observed and self._observed[0][0] < now - MAX_AGE * self._target:
            self._replace(self._observed.popleft()[1], PRIOR_EXCESS * self._target)
        limit = GOAL * self._target - self._sorted[int(QUANTILE * WINDOW)]
        return min(max(limit, MIN_LIMIT * self._target), MAX_LIMIT * self._target)

    def record(self, latency: float, delay: float, *, cost: float, now: float) -> None:
        """Record a response and the delay estimated on its arrival.

        Left out are requests that were not admitted near the limit, as they tell little about it, and those
        whose own `cost` in seconds is so large that waiting matters little.
        """
        if delay < NEAR_LIMIT * self.at(now) or cost > SMALL_REQUEST * self._target:
            return
        full = len(self._observed) == WINDOW
        self._replace(self._observed.popleft()[1] if full else PRIOR_EXCESS * self._target, latency - delay)
        self._observed.append((now, latency - delay))

    def _replace(self, old: float, new: float) -> None:
        del self._sorted[bisect_left(self._sorted, old)]
        insort(self._sorted, new)


def _count_characters(texts: Iterable[AnyText]) -> int:
    return sum(len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts)
