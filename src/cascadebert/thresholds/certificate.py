"""Guarantees and the certificate that records them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cascadebert.errors import CascadeError

GuaranteeName = Literal[
    "min_agreement", "max_accuracy_drop", "min_accuracy", "min_early_exit_accuracy", "max_false_negative_rate"
]


@dataclass(frozen=True)
class Guarantee:
    """What is to hold on new data.

    Attributes:
        name: "min_agreement": the share of rows with the last stage's own answer (needs no labels);
            "max_accuracy_drop": accuracy of the last stage alone less the cascade's; "min_accuracy": of the
            cascade; "min_early_exit_accuracy": of the answers given before the last stage; "max_false_negative_rate": the
            share of the rows of one label that are answered otherwise.
        level: what it must reach ("min") or stay below ("max"), in (0, 1).
        label: the label that must not be missed, for "max_false_negative_rate" alone.

    Raises:
        CascadeError: if the level is out of range, or a label is missing or not asked for.

    >>> Guarantee("min_agreement", 0.98).risk
    0.02
    """

    name: GuaranteeName
    level: float
    label: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise CascadeError(f"the level of {self.name} lies between 0 and 1, not at {self.level}")
        if (self.label is not None) != (self.name == "max_false_negative_rate"):
            raise CascadeError(
                f"a label belongs to max_false_negative_rate alone; given: {self.name}, {self.label}"
            )

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
class GuaranteeResult:
    """A promise that was tested, and what the test saw.

    Attributes:
        promise: what was promised.
        n: certify rows that it speaks of at the chosen point.
        bound: bound of the same quantity at the chosen point, taken by itself, at its share of delta.
    """

    guarantee: Guarantee
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

    guarantees: tuple[GuaranteeResult, ...]
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
