"""Targets and guarantees, and the operating points selected for them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.types import CostUnit

GuaranteeName = Literal[
    "min_agreement", "max_accuracy_drop", "min_accuracy", "min_early_exit_accuracy", "max_false_negative_rate"
]


@dataclass(frozen=True)
class Target:
    """The goal of a threshold search: exactly one of four quantities.

    Attributes:
        speedup: at least this many times cheaper than the last stage alone, in the chosen cost unit.
        max_accuracy_drop: at most this much accuracy below the last stage alone (0.01 = 1 point).
        min_accuracy: at least this accuracy.
        min_agreement: at least this fraction of texts with the last stage's prediction (needs no labels).

    Raises:
        CascadeError: if none or several are given, or the value is out of range.

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
            raise CascadeError(f"a target speed-up must be a positive number, not {self.speedup}")
        if self.speedup is None and not 0 <= self.value <= 1:
            raise CascadeError(f"{self.name} must be between 0 and 1, not {self.value}")

    def __repr__(self) -> str:
        return f"Target({self.name}={self.value})"

    @property
    def name(self) -> str:
        """Name of the quantity that is given."""
        return next(field.name for field in fields(self) if getattr(self, field.name) is not None)

    @property
    def value(self) -> float:
        """Value of the quantity that is given."""
        return float(getattr(self, self.name))

    @property
    def option(self) -> str:
        """Command-line option of the quantity, such as `--target-speedup`."""
        return "--target-speedup" if self.name == "speedup" else "--" + self.name.replace("_", "-")


DEFAULT_TARGET = Target(min_agreement=0.99)
"""The target of `build` where none is given."""


@dataclass(frozen=True)
class Guarantee:
    """A property of the cascade that must hold on new data.

    Attributes:
        name: "min_agreement": fraction of texts with the last stage's prediction (needs no labels);
            "max_accuracy_drop": accuracy of the last stage alone minus the cascade's; "min_accuracy": of the
            cascade; "min_early_exit_accuracy": of the predictions made before the last stage;
            "max_false_negative_rate": fraction of the texts of one label that get another prediction.
        level: lower ("min") or upper ("max") limit, in (0, 1).
        label: the label of "max_false_negative_rate"; None for the others.

    Raises:
        CascadeError: if the level is out of range, or a label is missing or superfluous.

    >>> Guarantee("min_agreement", 0.98).max_risk
    0.02
    """

    name: GuaranteeName
    level: float
    label: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise CascadeError(f"the level of {self.name} must be between 0 and 1, not {self.level}")
        if (self.label is not None) != (self.name == "max_false_negative_rate"):
            raise CascadeError(
                f"max_false_negative_rate needs a label, others do not; given: {self.name}, {self.label}"
            )

    @property
    def max_risk(self) -> float:
        """Largest allowed mean loss."""
        return round(1 - self.level, 12) if self.name.startswith("min") else self.level

    @property
    def description(self) -> str:
        """The guarantee in words, such as "agreement of at least 0.98"."""
        kind, _, quantity = self.name.partition("_")
        limit = "at least" if kind == "min" else "at most"
        label = "" if self.label is None else f" of label {self.label}"
        return f"{quantity.replace('_', ' ')}{label} of {limit} {self.level:g}"

    def bound(self, risk: float) -> float:
        """Convert a bound of the mean loss to the quantity that the guarantee is about."""
        return 1 - risk if self.name.startswith("min") else risk


@dataclass(frozen=True)
class GuaranteeResult:
    """A tested guarantee."""

    guarantee: Guarantee
    n: int  # examples of the certification set that it is about at the operating point
    bound: float  # of its quantity there, tested separately at its equal part of delta


@dataclass(frozen=True)
class CertifiedPoint:
    """Thresholds at which all guarantees of a certificate hold."""

    thresholds: tuple[float, ...]  # (num_stages - 1,)
    exit_rates: tuple[float, ...]  # (num_stages,) on the tuning set
    speedup: float  # on the tuning set, in the cost unit of the operating point


@dataclass(frozen=True)
class Certificate:
    """Guarantees for new data from the distribution of the certification set, at all points simultaneously.

    With probability 1 - delta over the draw of that set, no guarantee is broken at any point. A certificate
    is valid for one engine, precision, device, set of stages and temperatures.
    """

    guarantees: tuple[GuaranteeResult, ...]  # each tested at an equal part of delta
    delta: float  # probability that any of them is broken
    n: int  # examples of the certification set, read once
    points: tuple[CertifiedPoint, ...]  # most conservative to fastest; the last is the operating point
    engine: str
    precision: str  # of the matrix products
    device: str  # "cpu" or "cuda"
    source: str  # of the certification set
    data_sha256: str  # fingerprint of the certification set
    temperatures: tuple[float, ...]  # (num_stages,)
    stages_sha256: str  # fingerprint of the files of the stages


@dataclass(frozen=True)
class TuningMetrics:
    """Metrics of an operating point on the tuning set."""

    n: int  # examples
    metric: Literal["accuracy", "agreement"]  # of `value`: against labels, or with the last stage
    value: float  # of the cascade, in [0, 1]
    last_stage: float  # the metric of the last stage alone (1 for agreement)
    exit_rates: tuple[float, ...]  # (num_stages,) fraction of the examples that exit at each stage
    cost_unit: CostUnit
    speedup: float  # cost of the last stage alone over the cost of the cascade
    target: Target | None  # None where guarantees were certified instead
    notices: tuple[str, ...] = ()  # warnings, one sentence each
    cross_validated: float | None = None  # `value`, see `cross_validate`; None where there is a certificate


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds, with their metrics on the tuning set and their guarantees.

    Attributes:
        thresholds: (num_stages - 1,) a text exits at a stage if its confidence exceeds the threshold.
        metrics: metrics on the tuning set, or None for thresholds set by hand.
        certificate: guarantees for new data, or None.
    """

    thresholds: tuple[float, ...]
    metrics: TuningMetrics | None = None
    certificate: Certificate | None = None

    @property
    def deferral_rates(self) -> list[float]:
        """(num_stages - 1,) expected fraction of the texts at each stage that it defers.

        Without measured exit rates, as many texts exit at each stage.

        >>> [round(rate, 2) for rate in OperatingPoint((0.9, 0.8)).deferral_rates]
        [0.67, 0.5]
        """
        count = len(self.thresholds) + 1
        rates = (1 / count,) * count if self.metrics is None else self.metrics.exit_rates
        reached = [max(sum(rates[stage:]), 1e-6) for stage in range(count)]
        return [after / before for before, after in pairwise(reached)]

    @property
    def guarantees(self) -> tuple[Guarantee, ...]:
        """The certified guarantees; none without a certificate."""
        return tuple(result.guarantee for result in self.certificate.guarantees) if self.certificate else ()
