"""The frozen values that rooms hand to one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cascadebert.errors import CascadeError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Logits = NDArray[np.float32]
Texts = Sequence[str] | Sequence[tuple[str, str]]
Cost = Literal["layers", "flops", "measured"]
ScoreName = Literal["max_probability", "margin", "entropy", "learned"]
ScoreChoice = Literal["auto", "max_probability", "margin", "entropy", "learned"]

COSTS: tuple[Cost, ...] = ("layers", "flops", "measured")


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

    def of(self, lengths: Ints) -> Floats:
        """(n,) operations of rows with the given token counts.

        >>> Flops(row=10, token=2, pair=1).of(np.array([3])).tolist()
        [25.0]
        """
        length = np.asarray(lengths, dtype=np.float64)
        return np.asarray(self.row + self.token * length + self.pair * length**2)


@dataclass(frozen=True)
class Seconds:
    """Seconds of one row of `L` tokens on one machine: `row + token * L`."""

    row: float
    token: float

    def of(self, lengths: Ints) -> Floats:
        """(n,) seconds of rows with the given token counts.

        >>> Seconds(row=1, token=0.5).of(np.array([4])).tolist()
        [3.0]
        """
        return np.asarray(self.row + self.token * np.asarray(lengths, dtype=np.float64))


@dataclass(frozen=True)
class Target:
    """What thresholds are picked for: exactly one of the four.

    Attributes:
        speedup: at least this many times cheaper than the last stage alone, in the chosen cost.
        max_accuracy_drop: at most this much accuracy below the last stage alone (0.01 = 1 point).
        min_accuracy: at least this accuracy.
        min_agreement: at least this share of rows with the last stage's own answer (no labels needed).

    Raises:
        CascadeError: if none or several are given, or one is out of range.

    >>> Target(speedup=2.0)
    Target(speedup=2.0)
    >>> Target(speedup=2.0, min_accuracy=0.9)
    Traceback (most recent call last):
    cascadebert.errors.CascadeError: a target is exactly one of speedup, max_accuracy_drop, \
min_accuracy, min_agreement; given: speedup, min_accuracy
    """

    speedup: float | None = None
    max_accuracy_drop: float | None = None
    min_accuracy: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self)]
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise CascadeError(
                f"a target is exactly one of {', '.join(names)}; given: {', '.join(given) or 'none'}"
            )
        if self.speedup is not None and not 0 < self.speedup < np.inf:
            raise CascadeError(f"a target speed-up is a positive number, not {self.speedup}")
        if self.speedup is None and not 0 <= self.value <= 1:
            raise CascadeError(f"{given[0]} is a share between 0 and 1, not {self.value}")

    def __repr__(self) -> str:
        return f"Target({self.name}={self.value})"

    @property
    def name(self) -> str:
        """Which of the four is given."""
        return next(field.name for field in fields(self) if getattr(self, field.name) is not None)

    @property
    def value(self) -> float:
        """The figure given for it."""
        return float(getattr(self, self.name))

    @property
    def option(self) -> str:
        """The command-line option that asks for it, such as `--target-speedup`."""
        return "--target-speedup" if self.name == "speedup" else "--" + self.name.replace("_", "-")


@dataclass(frozen=True)
class Expected:
    """What an operating point gave on the rows that it was picked on.

    Attributes:
        n: number of those rows.
        measure: what `value` is: "accuracy" against labels, "agreement" with the last stage.
        value: the cascade's, in [0, 1].
        last_stage: the last stage's alone (1 for agreement).
        exit_rates: (num_stages,) share of the rows answered at each stage; sums to 1.
        cost: the unit in which `speedup` is counted.
        speedup: cost of the last stage alone over the cost of the cascade.
        target: what was asked for, such as "max_accuracy_drop 0.005".
        notices: what must be heard about this choice, one sentence each.
        cross_validated: `value` on rows that thresholds were not picked on, each tenth of them by thresholds
            of the other nine; None for fewer than ten rows, and where a certificate says more.
    """

    n: int
    measure: Literal["accuracy", "agreement"]
    value: float
    last_stage: float
    exit_rates: tuple[float, ...]
    cost: Cost
    speedup: float
    target: str
    notices: tuple[str, ...] = ()
    cross_validated: float | None = None


PromiseName = Literal[
    "min_agreement", "max_accuracy_drop", "min_accuracy", "min_exit_accuracy", "max_miss_rate"
]


@dataclass(frozen=True)
class Promise:
    """What is to hold on new data.

    Attributes:
        name: "min_agreement": the share of rows with the last stage's own answer (needs no labels);
            "max_accuracy_drop": accuracy of the last stage alone less the cascade's; "min_accuracy": of the
            cascade; "min_exit_accuracy": of the answers given before the last stage; "max_miss_rate": the
            share of the rows of one label that are answered otherwise.
        level: what it must reach ("min") or stay below ("max"), in (0, 1).
        label: the label that must not be missed, for "max_miss_rate" alone.

    Raises:
        CascadeError: if the level is out of range, or a label is missing or not asked for.

    >>> Promise("min_agreement", 0.98).risk
    0.02
    """

    name: PromiseName
    level: float
    label: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise CascadeError(f"the level of {self.name} lies between 0 and 1, not at {self.level}")
        if (self.label is not None) != (self.name == "max_miss_rate"):
            raise CascadeError(f"a label belongs to max_miss_rate alone; given: {self.name}, {self.label}")

    @property
    def risk(self) -> float:
        """The mean loss that must not be exceeded."""
        return round(1 - self.level, 12) if self.name.startswith("min") else self.level

    @property
    def words(self) -> str:
        """The promise in words, such as "agreement of at least 0.98"."""
        kind, _, rest = self.name.partition("_")
        most = "at least" if kind == "min" else "at most"
        label = "" if self.label is None else f" of label {self.label}"
        return f"{rest.replace('_', ' ')}{label} of {most} {self.level:g}"

    def bound(self, risk: float) -> float:
        """A bound of the mean loss in the promise's own terms."""
        return 1 - risk if self.name.startswith("min") else risk


@dataclass(frozen=True)
class Kept:
    """A promise that was tested, and what the test saw.

    Attributes:
        promise: what was promised.
        n: certify rows that it speaks of at the chosen point.
        bound: bound of the same quantity at the chosen point, taken by itself, at its share of delta.
    """

    promise: Promise
    n: int
    bound: float


@dataclass(frozen=True)
class CertifiedPoint:
    """Thresholds at which all promises of a certificate hold.

    Attributes:
        thresholds: (num_stages - 1,).
        exit_rates: (num_stages,) on the tune rows.
        speedup: on the tune rows, in the cost of the operating point.
    """

    thresholds: tuple[float, ...]
    exit_rates: tuple[float, ...]
    speedup: float


@dataclass(frozen=True)
class Certificate:
    """What holds on new data drawn like the certify rows, at every one of its points at once.

    With probability 1 - delta over the draw of those rows no promise is broken at any point. It belongs to
    one engine, precision, device, set of stages and temperatures.

    Attributes:
        promises: what was asked for, with what the test saw; each had an equal share of delta.
        delta: the chance that any of them is broken anyway.
        n: certify rows, read once.
        points: from safest to fastest; the last one is the operating point.
        engine: that ran the stages.
        precision: of its matrix products.
        device: "cpu" or "cuda".
        source: of the rows.
        data_sha256: fingerprint of the certify rows.
        temperatures: (num_stages,) of the confidences.
        stages_sha256: fingerprint of the stages' files.
    """

    promises: tuple[Kept, ...]
    delta: float
    n: int
    points: tuple[CertifiedPoint, ...]
    engine: str
    precision: str
    device: str
    source: str
    data_sha256: str
    temperatures: tuple[float, ...]
    stages_sha256: str


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds and what they gave where they were picked.

    Attributes:
        thresholds: (num_stages - 1,) a row leaves at a stage if its confidence exceeds the threshold.
        expected: measured on the tune rows, or None for thresholds set by hand.
        certificate: what is promised of them on new data, or None.
    """

    thresholds: tuple[float, ...]
    expected: Expected | None = None
    certificate: Certificate | None = None


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
