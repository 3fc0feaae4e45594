"""Whether shares of the traffic are still those of the rows that thresholds were picked on. Pure.

A share may differ from its value there by a tolerance: a difference that is no larger is no alarm, however
many rows show it. The rows there are a sample too: the true shares lie within a band round those counted, and
only what is beyond band and tolerance together counts.
"""

from __future__ import annotations

import numpy as np

from cascadebert.evaluation.drift_test import TOLERANCE
from cascadebert.server.monitoring.sequential_tests import Detector
from cascadebert.types import Floats, Ints

BLOCK = 256
KEPT = 0.95


def band(n: int, stages: int, alpha: float) -> float:
    """How far shares of n rows lie from the true ones, at most, for all thresholds at once.

    The share of rows that some of the first `stages` stages are sure of, for all thresholds together: so it
    holds though thresholds were picked on the same rows. For one stage it is the band of Dvoretzky, Kiefer
    and Wolfowitz with Massart's constant (1990), for more that of Naaman (2021, "On the tight constant in the
    multivariate Dvoretzky-Kiefer-Wolfowitz inequality").

    Args:
        n: rows.
        stages: whose confidences are looked at.
        alpha: the chance that some share lies further off.

    >>> round(band(2000, 1, 0.01), 4), round(band(2000, 2, 0.01), 4)
    (0.0364, 0.0568)
    """
    count = 2.0 if stages == 1 else stages * (n + 1.0)
    return float(np.sqrt(np.log(count / alpha) / (2 * n)))


class ShareDriftDetector:
    """Shares of a stream of rows beside those of the calibration.

    Rows are taken in blocks of 256 or more, as requests end; a block is one step of a `Detector` with two
    bounds for each share.

    Args:
        rows: (k + 1,) the calibration's rows by bin; share i is that of the rows in the first i bins.
        bands: (k,) how far shares may lie from the true ones.
        run_length: blocks between false alarms, on the mean, at the least.
    """

    def __init__(self, rows: Floats, bands: Floats, run_length: float) -> None:
        self.calibrated, self.allowed = _shares(rows), bands + TOLERANCE
        low, high = self.calibrated - self.allowed, self.calibrated + self.allowed
        self._of = np.concatenate([np.flatnonzero(high < 1), np.flatnonzero(low > 0)])
        above = np.arange(len(self._of)) < int((high < 1).sum())
        bounds = np.where(above, high[self._of], low[self._of])
        self._detector = Detector(bounds, above, run_length)
        self._block, self._rows = np.zeros(len(rows)), 0
        self._faded, self.seen = np.zeros(len(rows)), 0

    def add(self, counts: Ints, rows: int) -> bool:
        """Take in the rows of a request; True for an alarm.

        Args:
            counts: (k + 1,) rows by bin.
            rows: all of them.
        """
        self._block += counts
        self._rows += rows
        self.seen += rows
        if self._rows < BLOCK:
            return False
        alarm = self._detector.step(np.cumsum(self._block)[self._of], self._rows)
        self._faded = KEPT * self._faded + self._block
        self._block, self._rows = np.zeros(len(self._block)), 0
        return alarm

    def lately(self) -> Floats:
        """(k,) shares of some 5,000 rows, each block counting 0.95 of the next one; empty without rows."""
        rows = KEPT * self._faded + self._block
        return _shares(rows) if rows.any() else np.empty(0)


def _shares(rows: Floats) -> Floats:
    return np.asarray(np.cumsum(rows)[:-1] / rows.sum())
