"""How far confidences can be trusted, before and after scaling. Pure: arrays in, values out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascadebert.errors import UndefinedMetric
from cascadebert.evaluation.calibration_metrics import (
    ReliabilityBins,
    RiskCoverage,
    brier_score,
    calibration_error,
    reliability_bins,
    risk_coverage,
)
from cascadebert.evaluation.metrics import difficulty_inversion_score
from cascadebert.thresholds.confidence import log_odds, max_probability, softmax
from cascadebert.thresholds.temperature import negative_log_likelihood, scale_logits
from cascadebert.types import Bools, Floats, Interval, Ints, Logits


@dataclass(frozen=True)
class CalibrationMetrics:
    """The confidences of one predictor on some rows.

    Attributes:
        ece: expected calibration error, 15 bins of equal width.
        ece_mass: the same with 15 bins of about equally many rows.
        brier: squared distance of the probabilities from the label, 0 to 2.
        nll: mean of -log p(label), in nats.
        bins: of the reliability diagram, 15 of equal width.
    """

    ece: Interval
    ece_mass: Interval
    brier: float
    nll: float
    bins: ReliabilityBins


@dataclass(frozen=True)
class CalibrationAnalysis:
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
    before: CalibrationMetrics
    after: CalibrationMetrics
    dis: float | None
    risk: RiskCoverage


def calibration_metrics(logits: Floats, labels: Ints) -> CalibrationMetrics:
    """How well the probabilities of the given logits fit the labels.

    Args:
        logits: (n, num_labels), scaled or not.
        labels: (n,) label ids.
    """
    probabilities = softmax(logits)
    sure, right = max_probability(probabilities), probabilities.argmax(axis=1) == labels
    return CalibrationMetrics(
        ece=calibration_error(sure, right),
        ece_mass=calibration_error(sure, right, equal="mass"),
        brier=brier_score(probabilities, labels),
        nll=negative_log_likelihood(logits, labels),
        bins=reliability_bins(sure, right),
    )


def analyze_calibration(
    name: str, raw: Logits, scaled: Floats, labels: Ints, *, temperature: float | None = None
) -> CalibrationAnalysis:
    """One predictor's confidences before and after scaling.

    Args:
        name: whose.
        raw: (n, num_labels) before.
        scaled: (n, num_labels) after.
        labels: (n,) label ids.
        temperature: that divides them, if it is one.
    """
    right, score = scaled.argmax(axis=1) == labels, log_odds(scaled)
    return CalibrationAnalysis(
        name=name,
        temperature=temperature,
        before=calibration_metrics(np.asarray(raw, dtype=np.float64), labels),
        after=calibration_metrics(scaled, labels),
        dis=_inversions(score, ~right),
        risk=risk_coverage(score, right),
    )


def analyze_cascade_calibration(
    logits: Logits, temperatures: tuple[float, ...], exits: Ints, labels: Ints
) -> tuple[CalibrationAnalysis, ...]:
    """Every stage on all rows, then the cascade: each row with the logits of the stage that answers it.

    Before scaling, the cascade's rows leave where they leave after it, so that the same answers are judged.

    Args:
        logits: (num_stages, n, num_labels) before scaling.
        temperatures: (num_stages,).
        exits: (n,) the stage, counted from 0, that answers each row.
        labels: (n,) label ids.
    """
    scaled = np.stack([scale_logits(one, t) for one, t in zip(logits, temperatures, strict=True)])
    rows = np.arange(len(labels))
    stages = [
        analyze_calibration(f"stage {i} alone", raw, after, labels, temperature=t)
        for i, (raw, after, t) in enumerate(zip(logits, scaled, temperatures, strict=True), start=1)
    ]
    return (*stages, analyze_calibration("cascade", logits[exits, rows], scaled[exits, rows], labels))


def _inversions(score: Floats, hard: Bools) -> float | None:
    try:
        return difficulty_inversion_score(score, hard)
    except UndefinedMetric:
        return None
