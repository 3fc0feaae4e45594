"""Drift of the traffic's cumulative fractions from those of the tuning set. Pure.

A difference within the tolerance is no alarm, however many texts show it. The tuning set is a sample too: its
true fractions lie within a band around the observed ones, and only what exceeds band plus tolerance counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cascadebert.evaluation.drift_statistics import TOLERANCE
from cascadebert.server.monitoring.sequential_tests import EDetector
from cascadebert.types import Floats, Ints

BLOCK_SIZE = 256
DECAY = 0.95


@dataclass(frozen=True)
class ShareComparison:
    """Cumulative fractions of the traffic beside those of the tuning set.

    Fraction i is that of texts that exited at stage i or before, or whose confidence is at most edge i.
    """

    reference: tuple[float, ...]  # (k,) on the tuning set
    recent: tuple[float, ...]  # (k,) of some 5,000 texts, by a decay of 0.95 a block; empty without traffic
    tolerance: tuple[float, ...]  # (k,) largest difference that is no alarm
    texts: int  # compared so far


def dkw_band(n: int, num_stages: int, alpha: float) -> float:
    """Half-width of a band that holds the true exit fractions of the first `num_stages` stages.

    The band covers all thresholds at once with probability 1 - alpha, so it also holds for thresholds that
    were selected on the same n examples. One stage: Dvoretzky, Kiefer and Wolfowitz with Massart's constant
    (1990); more: Naaman (2021, "On the tight constant in the multivariate Dvoretzky-Kiefer-Wolfowitz
    inequality").

    >>> round(dkw_band(2000, 1, 0.01), 4), round(dkw_band(2000, 2, 0.01), 4)
    (0.0364, 0.0568)
    """
    constant = 2.0 if num_stages == 1 else num_stages * (n + 1.0)
    return float(np.sqrt(np.log(constant / alpha) / (2 * n)))


class ShareDriftDetector:
    """Compares cumulative fractions of a stream with those of the tuning set, (k + 1,) `counts` by bin.

    Fraction i is that of the first i + 1 bins, in a band of half-width `bands[i]`. Texts are grouped in
    blocks of at least 256 as requests end; a block is one step of an `EDetector` with an upper and a lower
    bound for each fraction.
    """

    def __init__(self, counts: Floats, bands: Floats) -> None:
        reference, tolerance = _fractions(counts), bands + TOLERANCE
        self._initial = ShareComparison(tuple(reference.tolist()), (), tuple(tolerance.tolist()), 0)
        low, high = reference - tolerance, reference + tolerance
        upper, lower = np.flatnonzero(high < 1), np.flatnonzero(low > 0)
        self._columns = np.concatenate([upper, lower])
        above = np.arange(len(self._columns)) < len(upper)
        self._detector = EDetector(np.concatenate([high[upper], low[lower]]), above)
        self._block, self._decayed = np.zeros(len(counts)), np.zeros(len(counts))
        self._block_size = self.n = 0

    def add(self, counts: Ints, n: int) -> bool:
        """Add the n texts of a request, (k + 1,) by bin; return True on an alarm."""
        self._block += counts
        self._block_size += n
        self.n += n
        if self._block_size < BLOCK_SIZE:
            return False
        alarm = self._detector.step(np.cumsum(self._block)[self._columns], self._block_size)
        self._decayed = DECAY * self._decayed + self._block
        self._block, self._block_size = np.zeros(len(self._block)), 0
        return alarm

    def comparison(self) -> ShareComparison:
        """Return the fractions so far."""
        counts = DECAY * self._decayed + self._block
        recent = tuple(_fractions(counts).tolist()) if counts.any() else ()
        return replace(self._initial, recent=recent, texts=self.n)


def _fractions(counts: Floats) -> Floats:
    return np.asarray(np.cumsum(counts)[:-1] / counts.sum())
