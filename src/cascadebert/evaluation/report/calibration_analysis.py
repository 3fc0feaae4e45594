"""Calibration of stages and cascade before and after temperature scaling. Pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascadebert.evaluation.calibration_metrics import (
    ReliabilityBins,
    RiskCoverage,
    brier_score,
    calibration_error,
    reliability_bins,
    risk_coverage,
)
from cascadebert.evaluation.evaluate import dis_or_none, scale_stages
from cascadebert.thresholds.confidence import log_odds, max_probability, softmax
from cascadebert.thresholds.temperature import negative_log_likelihood
from cascadebert.types import Floats, Interval, Ints, Logits


@dataclass(frozen=True)
class CalibrationMetrics:
    """Calibration of one predictor."""

    ece: Interval  # expected calibration error, 15 bins of equal width
    ece_mass: Interval  # 15 bins of equal mass
    brier: float  # 0 to 2
    nll: float  # mean of -log p(label), in nats
    bins: ReliabilityBins  # 15 of equal width


@dataclass(frozen=True)
class CalibrationAnalysis:
    """Calibration of one predictor before and after temperature scaling."""

    name: str
    temperature: float | None  # None for the cascade, whose stages have their own
    uncalibrated: CalibrationMetrics  # with every temperature 1
    calibrated: CalibrationMetrics
    # Difficulty inversion score by log-odds after scaling, hard = misclassified; None if all examples are or
    # none is. Temperature scaling changes it for the cascade only.
    dis: float | None
    risk: RiskCoverage  # by the same score


def calibration_metrics(logits: Floats, labels: Ints) -> CalibrationMetrics:
    """Calibration of (n, num_labels) logits, scaled or not, against (n,) label ids."""
    probabilities = softmax(logits)
    confidences, correct = max_probability(probabilities), probabilities.argmax(axis=1) == labels
    return CalibrationMetrics(
        ece=calibration_error(confidences, correct),
        ece_mass=calibration_error(confidences, correct, equal="mass"),
        brier=brier_score(probabilities, labels),
        nll=negative_log_likelihood(logits, labels),
        bins=reliability_bins(confidences, correct),
    )


def analyze_calibration(
    name: str, logits: Logits, scaled: Floats, labels: Ints, temperature: float | None = None
) -> CalibrationAnalysis:
    """Calibration of one predictor from its (n, num_labels) logits before and after scaling."""
    correct = scaled.argmax(axis=1) == labels
    return CalibrationAnalysis(
        name=name,
        temperature=temperature,
        uncalibrated=calibration_metrics(np.asarray(logits, dtype=np.float64), labels),
        calibrated=calibration_metrics(scaled, labels),
        dis=dis_or_none(scaled, correct),
        risk=risk_coverage(log_odds(scaled), correct),
    )


def analyze_cascade(
    logits: Logits, temperatures: tuple[float, ...], exits: Ints, labels: Ints
) -> tuple[CalibrationAnalysis, ...]:
    """Calibration of every stage on all examples, then of the cascade, whose logits are those at the exit.

    `logits` are (num_stages, n, num_labels) before scaling, `exits` (n,) stages counted from 0. The exits are
    the same before and after scaling, so both describe the same predictions.
    """
    scaled, rows = scale_stages(logits, temperatures), np.arange(len(labels))
    stages = [
        analyze_calibration(f"stage {i + 1} alone", logits[i], scaled[i], labels, temperature)
        for i, temperature in enumerate(temperatures)
    ]
    return (*stages, analyze_calibration("cascade", logits[exits, rows], scaled[exits, rows], labels))
