"""The frozen values that rooms hand to one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Logits = NDArray[np.float32]
Texts = Sequence[str] | Sequence[tuple[str, str]]
CostUnit = Literal["layers", "flops", "measured"]
ScoreName = Literal["max_probability", "margin", "entropy", "learned"]
ScoreChoice = Literal["auto", "max_probability", "margin", "entropy", "learned"]

COST_UNITS: tuple[CostUnit, ...] = ("layers", "flops", "measured")


@dataclass(frozen=True)
class Predictions:
    """Answers for `n` rows, in the order of the input.

    Attributes:
        label_ids: (n,) position of the answer in `label_names`.
        probabilities: (n, num_labels) of the stage that answered, each row sums to 1.
        confidences: (n,) in [0, 1], what the exit decision looked at.
        stages: (n,) number of the stage that answered, counted from 1.
        label_names: the labels, in the order of the columns of `probabilities`.
    """

    label_ids: Ints
    probabilities: Floats
    confidences: Floats
    stages: Ints
    label_names: tuple[str, ...]

    @property
    def labels(self) -> NDArray[np.str_]:
        """(n,) the answers by name."""
        return np.asarray(self.label_names, dtype=np.str_)[self.label_ids]

    def __len__(self) -> int:
        return len(self.label_ids)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one row of `L` tokens at one stage: `row + token * L + pair * L * L`."""

    row: float
    token: float
    pair: float

    def cost_of(self, lengths: Ints) -> Floats:
        """(n,) operations of rows with the given token counts.

        >>> Flops(row=10, token=2, pair=1).cost_of(np.array([3])).tolist()
        [25.0]
        """
        length = np.asarray(lengths, dtype=np.float64)
        return np.asarray(self.row + self.token * length + self.pair * length**2)


@dataclass(frozen=True)
class LinearLatency:
    """Seconds of one row of `L` tokens on one machine: `row + token * L`."""

    row: float
    token: float

    def cost_of(self, lengths: Ints) -> Floats:
        """(n,) seconds of rows with the given token counts.

        >>> LinearLatency(row=1, token=0.5).cost_of(np.array([4])).tolist()
        [3.0]
        """
        return np.asarray(self.row + self.token * np.asarray(lengths, dtype=np.float64))


@dataclass(frozen=True)
class Histogram:
    """Values counted between edges.

    Attributes:
        edges: (bins - 1,) rising; a value equal to an edge lies below it.
        counts: (bins,) values below the first edge, between each two, and above the last.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class StageReport:
    """One stage alone, on all rows.

    Attributes:
        accuracy: share of rows answered rightly.
        ece: expected calibration error of the scaled probabilities, 15 equal-width bins.
        dis: difficulty inversion score, hard = answered wrongly; None where all or no row is.
    """

    accuracy: float
    ece: float
    dis: float | None


@dataclass(frozen=True)
class Report:
    """A predictor on labelled rows; what only a cascade has is empty or None for others.

    Attributes:
        n: number of rows.
        accuracy: share of rows answered rightly.
        macro_f1: F1 per label, averaged without weights.
        ece: expected calibration error, 15 equal-width bins.
        exit_rates: (num_stages,) share of rows answered at each stage.
        layers_speedup: layers of the last stage over layers paid per row; None where widths differ.
        flops_speedup: operations of the last stage over operations paid; None where not known.
        stages: each stage alone, with its temperature, on all rows.
    """

    n: int
    accuracy: float
    macro_f1: float
    ece: float
    exit_rates: tuple[float, ...] = ()
    layers_speedup: float | None = None
    flops_speedup: float | None = None
    stages: tuple[StageReport, ...] = ()


@dataclass(frozen=True)
class Interval:
    """A figure read off some rows, with the interval in which the true one lies."""

    value: float
    low: float
    high: float

    def minus(self, other: Interval) -> Interval:
        """This less another of other rows; holds where both hold.

        >>> Interval(0.5, 0.25, 0.75).minus(Interval(0.5, 0.375, 0.625))
        Interval(value=0.0, low=-0.375, high=0.375)
        """
        return Interval(self.value - other.value, self.low - other.high, self.high - other.low)

    def plus(self, number: float) -> Interval:
        """The figure and its interval moved."""
        return Interval(self.value + number, self.low + number, self.high + number)
