"""Anytime-valid tests of a loss rate by betting. Pure functions of counts.

A text has a loss x of 0 or 1. A bet that the chance of a loss exceeds m multiplies the capital by exp(t u x)
/ (1 - m + m exp(t u)) with a tilt t > 0 and the weight u of the text; a bet that it is below m has t < 0. If
the bet is wrong, the expected capital does not grow, whatever u was fixed beforehand, so the capital ever
reaches 1 / a with probability at most a (Ville 1939). These are the bets of Waudby-Smith & Ramdas (2023,
"Estimating means of bounded random variables by betting", arXiv 2010.09686) in the exponential form of
Robbins (1970, "Statistical methods related to the law of the iterated logarithm"), for which counts are a
sufficient statistic: a text costs one addition. The capital is the mean over tilts, as the best one is
unknown (method of mixtures).

A text that was sampled with probability r has the weight 1 / r, in units of the smallest weight: weighted
losses then estimate those of all texts, not of the sampled ones, when the sampling rate changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from cascadebert.types import Bools, Floats

TILTS = np.geomspace(0.01, 3.5, 14)
MAX_TILT = 50.0
RUN_LENGTH = 1_000_000.0
PRECISION = 1e-6


@dataclass(frozen=True)
class LossCounts:
    """Texts and losses counted by weight.

    >>> counts = LossCounts().add(True, 1.0).add(False, 1.0).add(False, 2.0)
    >>> counts.n, counts.rate
    (3, 0.25)
    """

    losses: Mapping[float, int] = field(default_factory=dict)
    texts: Mapping[float, int] = field(default_factory=dict)  # with and without a loss

    def add(self, lost: bool, weight: float) -> LossCounts:
        """Return the counts with one more text."""
        losses, texts = self.losses.get(weight, 0) + lost, self.texts.get(weight, 0) + 1
        return LossCounts({**self.losses, weight: losses}, {**self.texts, weight: texts})

    @property
    def n(self) -> int:
        """Number of texts."""
        return sum(self.texts.values())

    @property
    def rate(self) -> float:
        """Weighted fraction of losses; 0 without texts."""
        weighted = sum(weight * count for weight, count in self.texts.items())
        return sum(weight * count for weight, count in self.losses.items()) / weighted if self.n else 0.0


def _bets(signs: ArrayLike, weights: ArrayLike, levels: ArrayLike) -> tuple[Floats, Floats]:
    # (k, tilts) for k weights or levels: logarithms of the factor of a loss, and of the divisor of any text.
    tilts = np.asarray(signs) * np.minimum(TILTS * np.asarray(weights), MAX_TILT)
    return tilts, np.log1p(np.asarray(levels) * np.expm1(tilts))


def log_capital(counts: LossCounts, levels: ArrayLike, *, above: bool) -> Floats:
    """Logarithm of the capital won by betting that the loss rate is above (or below) each level.

    At log(1 / a) or more the opposite claim is refuted: by chance with probability at most a, at any time.

    >>> log_capital(LossCounts({1.0: 4}, {1.0: 100}), [0.01, 0.02], above=True).round(3)
    array([1.106, 0.132])
    """
    weights, losses, texts = list(counts.texts), list(counts.losses.values()), list(counts.texts.values())
    levels = np.expand_dims(levels, (-2, -1))
    tilts, costs = _bets(1.0 if above else -1.0, np.reshape(weights, (-1, 1)), levels)
    logs = np.array(losses) @ tilts - np.array(texts) @ costs
    return np.asarray(np.logaddexp.reduce(logs, axis=-1) - np.log(len(TILTS)))


def confidence_sequence(counts: LossCounts, alpha: float) -> tuple[float, float]:
    """Lower and upper end of the loss rates that no bet has refuted so far.

    Each end is ever wrong with probability at most alpha, at all times together, if every text has the same
    chance of a loss whatever came before. If chances differ, the lower end is still ever above the largest of
    them with probability at most alpha, and the upper end below the smallest.

    >>> [round(end, 4) for end in confidence_sequence(LossCounts({1.0: 4}, {1.0: 200}), 0.05)]
    [0.0023, 0.0662]
    """
    return _end(counts, alpha, above=True), _end(counts, alpha, above=False)


def _end(counts: LossCounts, alpha: float, *, above: bool) -> float:
    # The capital grows with the distance from the observed rate: search a grid, then a finer one.
    inside, outside = counts.rate, 0.0 if above else 1.0
    while counts.n and abs(inside - outside) > PRECISION:
        levels = np.linspace(outside, inside, 33)
        refuted = int((log_capital(counts, levels, above=above) >= -np.log(alpha)).sum())
        if not refuted:
            break
        outside, inside = float(levels[refuted - 1]), float(levels[refuted])
    return outside


class EDetector:
    """Restarting change detector for rates that leave their bounds.

    The e-SR detector of Shin, Ramdas & Rinaldo (2023, "E-detectors: a nonparametric framework for sequential
    change detection", arXiv 2203.03532): each step opens a new bet, and the statistic is the sum of all
    capitals, M <- (M + 1) * gain, here its mean over tilts and bounds. While every rate is within its bound,
    M is expected to rise by at most 1 a step, so an alarm at M = `run_length` comes after at least
    `run_length` steps on average, and within n steps with probability at most n / run_length. An alarm resets
    M to 0.

    `bounds` are (k,) rates in (0, 1), and `above`, (k,), is true for the upper ones.
    """

    def __init__(self, bounds: Floats, above: Bools, run_length: float = RUN_LENGTH) -> None:
        self._bounds, self._signs = bounds[:, None], np.where(above, 1.0, -1.0)[:, None]
        self._bets: dict[float, tuple[Floats, Floats]] = {}  # by weight; there are few
        self._threshold = np.log(run_length) + np.log(max(len(bounds), 1) * len(TILTS))
        self._logs = np.full((len(bounds), len(TILTS)), -np.inf)

    def step(self, losses: Floats, n: float = 1, weight: float = 1.0) -> bool:
        """Add n texts of a weight, of which losses[i], (k,), count against bound i; return True on an alarm.

        The number n must not depend on what the texts contain.
        """
        if weight not in self._bets:
            self._bets[weight] = _bets(self._signs, weight, self._bounds)
        tilts, costs = self._bets[weight]
        self._logs = tilts * losses[:, None] - costs * n + np.logaddexp(self._logs, 0.0)
        alarm = bool(self._logs.size) and bool(np.logaddexp.reduce(self._logs, axis=None) >= self._threshold)
        if alarm:
            self._logs = np.full_like(self._logs, -np.inf)
        return alarm
