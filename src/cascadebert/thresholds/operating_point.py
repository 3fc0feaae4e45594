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
class TuningMetrics:
    """What an operating point gave on the rows that it was picked on.

    Attributes:
        n: number of those rows.
        measure: what `value` is: "accuracy" against labels, "agreement" with the last stage.
        value: the cascade's, in [0, 1].
        last_stage: the last stage's alone (1 for agreement).
        exit_rates: (num_stages,) share of the rows answered at each stage; sums to 1.
        cost_unit: the unit in which `speedup` is counted.
        speedup: cost of the last stage alone over the cost of the cascade.
        target: what the thresholds were selected for; None where guarantees were certified instead.
        notices: what must be heard about this choice, one sentence each.
        cross_validated: `value` on rows that thresholds were not picked on, each tenth of them by thresholds
            of the other nine; None for fewer than ten rows, and where a certificate says more.
    """

    n: int
    metric: Literal["accuracy", "agreement"]
    value: float
    last_stage: float
    exit_rates: tuple[float, ...]
    cost_unit: CostUnit
    speedup: float
    target: Target | None
    notices: tuple[str, ...] = ()
    cross_validated: float | None = None


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds and what they gave where they were picked.

    Attributes:
        thresholds: (num_stages - 1,) a row leaves at a stage if its confidence exceeds the threshold.
        expected: measured on the tune rows, or None for thresholds set by hand.
        certificate: what is promised of them on new data, or None.
    """

    thresholds: tuple[float, ...]
    metrics: TuningMetrics | None = None
    certificate: Certificate | None = None
