"""Targets, and the operating points selected for them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.thresholds.certificate import Certificate
from cascadebert.types import CostUnit


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
