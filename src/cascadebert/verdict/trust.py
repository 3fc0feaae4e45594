"""How far confidences can be trusted, before and after scaling. Pure: arrays in, values out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascadebert.calibration import negative_log_likelihood, scale
from cascadebert.confidence import log_odds, max_probability, softmax
from cascadebert.errors import UndefinedMetric
from cascadebert.metrics import difficulty_inversion_score
from cascadebert.reliability import (
    Bins,
    Estimate,
    RiskCoverage,
    brier_score,
    calibration_error,
    reliability,
    risk_coverage,
)
from cascadebert.types import Bools, Floats, Ints, Logits


@dataclass(frozen=True)
class Calibration:
    """The confidences of one predictor on some rows.

    Attributes:
        ece: expected calibration error, 15 bins of equal width.
        ece_mass: the same with 15 bins of about equally many rows.
        brier: squared distance of the probabilities from the label, 0 to 2.
        nll: mean of -log p(label), in nats.
        bins: of the reliability diagram, 15 of equal width.
    """

    ece: Estimate
    ece_mass: Estimate
    brier: float
    nll: float
    bins: Bins


@dataclass(frozen=True)
class Trust:
    """One predictor's confidences before and after temperature scaling.

    Attributes:
        name: whose.
        temperature: its logits are divided by this; None for the cascade, whose stages have their own.
        before: with every temperature 1.
        after: as it answers.
        dis: difficulty inversion score by log-odds after scaling, hard = answered wrongly; None where all
            or no rows are. Scaling moves that of the cascade alone.
        risk: risk and coverage by the same score.
    """

    name: str
    temperature: float | None
    before: Calibration
    after: Calibration
    dis: float | None
    risk: RiskCoverage


def calibration_of(logits: Floats, labels: Ints) -> Calibration:
    """How well the probabilities of the given logits fit the labels.

    Args:
        logits: (n, num_labels), scaled or not.
        labels: (n,) label ids.
    """
    probabilities = softmax(logits)
    sure, right = max_probability(probabilities), probabilities.argmax(axis=1) == labels
    return Calibration(
        ece=calibration_error(sure, right),
        ece_mass=calibration_error(sure, right, equal="mass"),
        brier=brier_score(probabilities, labels),
        nll=negative_log_likelihood(logits, labels),
        bins=reliability(sure, right),
    )


def trust_of(
    name: str, raw: Logits, scaled: Floats, labels: Ints, *, temperature: float | None = None
) -> Trust:
    """One predictor's confidences before and after scaling.

    Args:
        name: whose.
        raw: (n, num_labels) before.
        scaled: (n, num_labels) after.
        labels: (n,) label ids.
        temperature: that divides them, if it is one.
    """
    right, score = scaled.argmax(axis=1) == labels, log_odds(scaled)
    return Trust(
        name=name,
        temperature=temperature,
        before=calibration_of(np.asarray(raw, dtype=np.float64), labels),
        after=calibration_of(scaled, labels),
        dis=_inversions(score, ~right),
        risk=risk_coverage(score, right),
    )


def trust_in_cascade(
    logits: Logits, temperatures: tuple[float, ...], exits: Ints, labels: Ints
) -> tuple[Trust, ...]:
    """Every stage on all rows, then the cascade: each row with the logits of the stage that answers it.

    Before scaling, the cascade's rows leave where they leave after it, so that the same answers are judged.

    Args:
        logits: (num_stages, n, num_labels) before scaling.
        temperatures: (num_stages,).
        exits: (n,) the stage, counted from 0, that answers each row.
        labels: (n,) label ids.
    """
    scaled = np.stack([scale(one, t) for one, t in zip(logits, temperatures, strict=True)])
    rows = np.arange(len(labels))
    stages = [
        trust_of(f"stage {i} alone", raw, after, labels, temperature=t)
        for i, (raw, after, t) in enumerate(zip(logits, scaled, temperatures, strict=True), start=1)
    ]
    return (*stages, trust_of("cascade", logits[exits, rows], scaled[exits, rows], labels))


def _inversions(score: Floats, hard: Bools) -> float | None:
    try:
        return difficulty_inversion_score(score, hard)
    except UndefinedMetric:
        return None
