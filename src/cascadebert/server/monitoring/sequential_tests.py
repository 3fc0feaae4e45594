"""Bets against a share that must not be exceeded, row by row, valid at any time. Pure.

A row has the loss x of 0 or 1. One who bets that the chance of a loss exceeds m multiplies his capital by
exp(t u x) / (1 - m + m exp(t u)), with a tilt t > 0 and the row's weight u; that it is below m, with t < 0.
While he is wrong his capital is not expected to grow, whatever u was fixed beforehand, so it ever reaches
1 / a with probability a at most (Ville 1939). These are the bets of Waudby-Smith & Ramdas (2023, "Estimating
means of bounded random variables by betting", arXiv 2010.09686) in the exponential form of Robbins (1970,
"Statistical methods related to the law of the iterated logarithm"), in which counts say everything: a row
costs one addition. Capital is spread evenly over tilts, as the best one is not known (method of mixtures).

A row that was drawn for the audit with chance r has the weight 1 / r, in units of the least weight: then
weighted losses are those of all rows, not of the drawn ones, when the rate changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascadebert.types import Bools, Floats

TILTS = np.geomspace(0.01, 3.5, 14)
MOST_TILT = 50.0
PRECISION = 1e-6


@dataclass(frozen=True)
class Tally:
    """Rows counted by their weight.

    Attributes:
        weights: (k,) in the order in which they were first seen.
        losses: (k,) rows with a loss.
        rows: (k,) all rows.

    >>> found = Tally().plus(True, 1.0).plus(False, 1.0).plus(False, 2.0)
    >>> found.n, found.share
    (3, 0.25)
    """

    weights: tuple[float, ...] = ()
    losses: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()

    def plus(self, lost: bool, weight: float) -> Tally:
        """One row more."""
        if weight not in self.weights:
            return Tally((*self.weights, weight), (*self.losses, int(lost)), (*self.rows, 1))
        place = self.weights.index(weight)
        losses, rows = list(self.losses), list(self.rows)
        losses[place] += lost
        rows[place] += 1
        return Tally(self.weights, tuple(losses), tuple(rows))

    @property
    def n(self) -> int:
        """All rows."""
        return sum(self.rows)

    @property
    def share(self) -> float:
        """Weighted share of losses; 0 without rows."""
        whole = sum(w * n for w, n in zip(self.weights, self.rows, strict=True))
        return sum(w * n for w, n in zip(self.weights, self.losses, strict=True)) / whole if whole else 0.0


def log_capital(tally: Tally, share: float, *, above: bool) -> float:
    """Logarithm of the capital won by betting against a share.

    Args:
        tally: the rows so far.
        share: in [0, 1].
        above: bet that the chance of a loss exceeds the share; else that it is below.

    Returns:
        At log(1 / a) or more, the claim that was bet against is refuted: it is so by chance with probability
        a at most, however often one looks.

    >>> round(log_capital(Tally((1.0,), (4,), (100,)), 0.02, above=True), 3)
    0.132
    """
    tilts, costs = _bets(share, np.asarray(tally.weights), 1.0 if above else -1.0)
    logs = tilts @ np.asarray(tally.losses) - costs @ np.asarray(tally.rows)
    return float(np.logaddexp.reduce(logs) - np.log(len(logs)))


def _bets(share: float, weights: Floats, sign: float) -> tuple[Floats, Floats]:
    """(tilts, k) what a loss wins, and what any row costs, in logarithms."""
    tilts = sign * np.minimum(np.outer(TILTS, weights), MOST_TILT)
    return tilts, np.log1p(share * np.expm1(tilts))


def confidence_sequence(tally: Tally, alpha: float) -> tuple[float, float]:
    """The chances of a loss that no bet has refuted so far: a confidence sequence.

    Each end is ever wrong with probability alpha at most, at all times together, if every row has the same
    chance of a loss whatever came before. If chances differ, the lower end is still ever above the largest
    of them with probability alpha at most, and the upper end below the least.

    Args:
        tally: the rows so far.
        alpha: of each end.

    >>> [round(end, 4) for end in confidence_sequence(Tally((1.0,), (4,), (200,)), 0.05)]
    [0.0023, 0.0662]
    """
    return _end(tally, alpha, above=True), _end(tally, alpha, above=False)


def _end(tally: Tally, alpha: float, *, above: bool) -> float:
    """Capital falls (rises) with the share that is bet against, so its end is found by halving."""
    inside, outside = tally.share, 0.0 if above else 1.0
    least = -np.log(alpha)
    if not tally.n or log_capital(tally, outside, above=above) < least:
        return outside
    while abs(inside - outside) > PRECISION:
        middle = (inside + outside) / 2
        refuted = log_capital(tally, middle, above=above) >= least
        inside, outside = (inside, middle) if refuted else (middle, outside)
    return outside


class Detector:
    """A restarting alarm that some share has lately left its bounds.

    The e-SR detector of Shin, Ramdas & Rinaldo (2023, "E-detectors: a nonparametric framework for sequential
    change detection", arXiv 2203.03532): each step opens a new bet, and the sum of all capitals,
    M <- (M + 1) * gain, is watched; here its mean over tilts and shares. While no share has left its bounds
    M is expected to rise by 1 a step at most, so that an alarm at M = `run_length` comes after `run_length`
    steps or more on the mean, and within n steps with probability n / run_length at most. After it M is 0.

    Args:
        shares: (k,) the bounds, each in (0, 1).
        above: (k,) whether the bound is an upper one.
        run_length: steps between false alarms, on the mean, at the least.
    """

    def __init__(self, shares: Floats, above: Bools, run_length: float) -> None:
        self._shares, self._signs = shares[:, None], np.where(above, 1.0, -1.0)[:, None]
        self._known: dict[float, tuple[Floats, Floats]] = {}
        self._least = np.log(run_length) + np.log(max(len(shares), 1) * len(TILTS))
        self._logs = self._start()

    def _start(self) -> Floats:
        return np.full((len(self._shares), len(TILTS)), -np.inf)

    def step(self, losses: Floats, rows: float = 1, weight: float = 1.0) -> bool:
        """Take in some rows; True for an alarm.

        Args:
            losses: (k,) number of losses by each share's own count.
            rows: how many rows; that number may not depend on what they hold.
            weight: of each of them.
        """
        tilts, costs = self._bets_at(weight)
        gains = tilts * losses[:, None] - costs * rows
        self._logs = gains + np.logaddexp(self._logs, 0.0)
        alarm = bool(self._logs.size) and bool(np.logaddexp.reduce(self._logs, axis=None) >= self._least)
        if alarm:
            self._logs = self._start()
        return alarm

    def _bets_at(self, weight: float) -> tuple[Floats, Floats]:
        if weight not in self._known:
            tilts = self._signs * np.minimum(TILTS * weight, MOST_TILT)
            self._known[weight] = tilts, np.log1p(self._shares * np.expm1(tilts))
        return self._known[weight]
