"""Immutable values that several packages exchange."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Logits = NDArray[np.float32]
Texts = Sequence[str] | Sequence[tuple[str, str]]
TextInput = Iterable[str] | Iterable[Sequence[str]]  # texts or pairs that are not checked yet
CostUnit = Literal["layers", "flops", "measured"]
ScoreName = Literal["max_probability", "margin", "entropy", "learned"]
ScoreChoice = Literal["auto", "max_probability", "margin", "entropy", "learned"]
PaddingSide = Literal["right", "left", "none"]

COST_UNITS: tuple[CostUnit, ...] = ("layers", "flops", "measured")


@dataclass(frozen=True)
class Predictions:
    """Predictions for `n` texts, in the order of the input.

    Attributes:
        label_ids: (n,) index of the predicted label in `label_names`.
        probabilities: (n, num_labels) of the stage at which the text exited; each row sums to 1.
        confidences: (n,) in [0, 1], compared with the threshold of that stage.
        stages: (n,) number of that stage, counted from 1.
        truncated: (n,) True for a text of which that stage read a part only, up to its maximum length.
        label_names: the labels, in the order of the columns of `probabilities`.
    """

    label_ids: Ints
    probabilities: Floats
    confidences: Floats
    stages: Ints
    truncated: Bools
    label_names: tuple[str, ...]

    @property
    def labels(self) -> NDArray[np.str_]:
        """(n,) predicted labels by name."""
        return np.asarray(self.label_names, dtype=np.str_)[self.label_ids]

    def __len__(self) -> int:
        return len(self.label_ids)

    def take(self, indices: Ints) -> Predictions:
        """The predictions at (m,) indices, which may repeat."""
        return Predictions(
            self.label_ids[indices],
            self.probabilities[indices],
            self.confidences[indices],
            self.stages[indices],
            self.truncated[indices],
            self.label_names,
        )


@dataclass(frozen=True)
class LinearLatency:
    """Seconds for one text of `L` tokens on one machine: `row + token * L`."""

    row: float
    token: float

    def cost_of(self, lengths: Ints) -> Floats:
        """(n,) seconds for texts of these token counts."""
        return np.asarray(self.row + self.token * np.asarray(lengths, dtype=np.float64))


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a stage for one text of `L` tokens: `row + token * L + pair * L * L`."""

    row: float
    token: float
    pair: float

    def cost_of(self, lengths: Ints) -> Floats:
        """(n,) operations for texts of these token counts.

        >>> Flops(row=10, token=2, pair=1).cost_of(np.array([3])).tolist()
        [25.0]
        """
        length = np.asarray(lengths, dtype=np.float64)
        return np.asarray(self.row + self.token * length + self.pair * length**2)


@dataclass(frozen=True)
class Histogram:
    """Counts of values between edges."""

    edges: tuple[float, ...]  # (bins - 1,) rising; a value equal to an edge is below it
    counts: tuple[int, ...]  # (bins,) values below the first edge, between each two, and above the last


@dataclass(frozen=True)
class StageReport:
    """Metrics of one stage alone, on all examples."""

    accuracy: float
    ece: float  # of the scaled probabilities
    dis: float | None  # difficulty inversion score, hard = misclassified; None if all are wrong or none is


@dataclass(frozen=True)
class Report:
    """Metrics of a predictor on labeled examples; those of cascades are empty or None for others."""

    n: int  # examples
    accuracy: float  # fraction of correct predictions
    macro_f1: float  # unweighted mean of the F1 scores of the labels
    ece: float  # expected calibration error, 15 equal-width bins
    exit_rates: tuple[float, ...] = ()  # (num_stages,) fraction of the examples that exit at each stage
    layers_speedup: float | None = None  # layers of the last stage over mean layers; None if widths differ
    flops_speedup: float | None = None  # operations of the last stage over the cascade's; None if unknown
    stages: tuple[StageReport, ...] = ()  # each stage alone, with its temperature


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float

    def minus(self, other: Interval) -> Interval:
        """Difference from the estimate of another sample; covers the true one where both intervals do.

        >>> Interval(0.5, 0.25, 0.75).minus(Interval(0.5, 0.375, 0.625))
        Interval(value=0.0, low=-0.375, high=0.375)
        """
        return Interval(self.value - other.value, self.low - other.high, self.high - other.low)

    def plus(self, number: float) -> Interval:
        """The estimate and its interval, shifted."""
        return Interval(self.value + number, self.low + number, self.high + number)
