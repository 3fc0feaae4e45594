"""Error breakdown, oracle routing and calibration of a cascade. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cascadebert.evaluation.cost_model import RowCosts
from cascadebert.evaluation.evaluate import exit_rates, scale_stages
from cascadebert.evaluation.metrics import (
    ReliabilityBins,
    RiskCoverage,
    bin_indices,
    brier_score,
    calibration_error,
    inversion_score_or_none,
    paired_difference,
    reliability_bins,
    risk_coverage,
)
from cascadebert.thresholds.confidence import log_odds, max_probability, negative_log_likelihood, softmax
from cascadebert.thresholds.select import speedup
from cascadebert.types import Bools, Floats, Interval, Ints, Logits

LENGTH_BUCKETS = 4
DECILES = 10
QUARTILES = (0, 0.25, 0.5, 0.75, 1)


@dataclass(frozen=True)
class Group:
    """Errors in one group of examples.

    Regressions are examples that the last stage classifies correctly and the cascade does not; corrections
    are the reverse.
    """

    kind: str  # "class" (true label), "length" (tokens at the last stage) or "stage" (where texts exit)
    name: str
    n: int
    accuracy: float
    last_stage_accuracy: float
    gain: Interval  # accuracy minus last_stage_accuracy
    regressions: int
    corrections: int
    fraction: float  # of all examples
    fraction_of_regressions: float | None  # None if there are no regressions at all


@dataclass(frozen=True)
class OracleRouting:
    """The same stages if each text exited at the first stage that predicts as the last stage does."""

    accuracy: float  # equals the last stage's
    expected_speedup: float  # over the last stage alone, from seconds per row and token
    exit_rates: tuple[float, ...]
    cascade_expected_speedup: float
    over_deferred: float  # fraction of examples that the cascade defers further than the oracle
    early_mistakes: float  # fraction of examples with another prediction than the last stage's
    best_of_stages: float  # fraction that any stage classifies correctly: the limit of any routing


@dataclass(frozen=True)
class HighConfidenceErrors:
    """Regressions among early exits, by confidence."""

    early_exits: int
    regressions: int
    corrections: int
    confidences: tuple[float, ...]  # minimum, quartiles and maximum of the regressions; empty without any
    # Fraction of the regressions above the median confidence of early exits: 0 for a perfect confidence, 0.5
    # for an uninformative one; None without regressions.
    above_median: float | None
    deciles: tuple[tuple[int, int], ...]  # (early exits, regressions) by confidence, lowest first


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


def error_groups(
    kinds: Mapping[str, tuple[Ints, Sequence[str]]], correct: Bools, last_correct: Bools
) -> tuple[Group, ...]:
    """Breakdown of the errors of the cascade and the last stage; empty groups are left out.

    `kinds` maps each kind to the (n,) group index of every example and the names of the groups.
    """
    regressed, corrected = last_correct & ~correct, correct & ~last_correct
    total, groups = int(regressed.sum()), []
    for kind, (index, names) in kinds.items():
        for i in np.unique(index).tolist():
            mask = index == i
            group = Group(
                kind=kind,
                name=names[i],
                n=int(mask.sum()),
                accuracy=float(correct[mask].mean()),
                last_stage_accuracy=float(last_correct[mask].mean()),
                gain=paired_difference(correct[mask], last_correct[mask]),
                regressions=int(regressed[mask].sum()),
                corrections=int(corrected[mask].sum()),
                fraction=float(mask.mean()),
                fraction_of_regressions=int(regressed[mask].sum()) / total if total else None,
            )
            groups.append(group)
    return tuple(groups)


def length_buckets(lengths: Ints) -> tuple[Ints, tuple[str, ...]]:
    """(n,) quartile of each length in tokens, and the names of the quartiles; equal lengths share one.

    >>> length_buckets(np.array([3, 4, 8, 9]))[1]
    ('up to 3 tokens', '4 to 6 tokens', '7 to 8 tokens', '9 tokens or more')
    """
    cuts = np.quantile(lengths, np.arange(1, LENGTH_BUCKETS) / LENGTH_BUCKETS)
    edges = np.unique(cuts.astype(np.int64)).tolist()
    lows = ["up to ", *(f"{edge + 1} to " for edge in edges[:-1])]
    names = [f"{low}{edge} tokens" for low, edge in zip(lows, edges, strict=True)]
    return np.searchsorted(edges, lengths, side="left"), (*names, f"{edges[-1] + 1} tokens or more")


def oracle_routing(exits: Ints, predictions: Ints, labels: Ints, seconds: RowCosts) -> OracleRouting:
    """Routing that knows which predictions the last stage would change, compared with the (n,) exits.

    `predictions` have shape (num_stages, n); exits count from 0.
    """
    correct, num_stages = predictions == labels, len(predictions)
    oracle = np.argmax(predictions == predictions[-1], axis=0)
    final = predictions[exits, np.arange(len(labels))]
    return OracleRouting(
        accuracy=float(correct[-1].mean()),
        expected_speedup=speedup(oracle, seconds.rows, seconds.last_stage_cost),
        exit_rates=exit_rates(oracle, num_stages),
        cascade_expected_speedup=speedup(exits, seconds.rows, seconds.last_stage_cost),
        over_deferred=float((exits > oracle).mean()),
        early_mistakes=float((final != predictions[-1]).mean()),
        best_of_stages=float(correct.any(axis=0).mean()),
    )


def high_confidence_errors(
    early: Bools, confidences: Floats, correct: Bools, last_correct: Bools
) -> HighConfidenceErrors:
    """Errors among early exits; all arrays are (n,), confidences are those at the exit."""
    regressed, early_confidences = early & last_correct & ~correct, confidences[early]
    regressed_confidences = confidences[regressed]
    index = bin_indices(early_confidences, DECILES, "mass")
    counts, regressions = np.bincount(index), np.bincount(index, weights=regressed[early])
    quartiles, above = (), None
    if len(regressed_confidences):
        quartiles = tuple(np.quantile(regressed_confidences, QUARTILES).tolist())
        above = float((regressed_confidences > np.median(early_confidences)).mean())
    return HighConfidenceErrors(
        early_exits=int(early.sum()),
        regressions=int(regressed.sum()),
        corrections=int((early & correct & ~last_correct).sum()),
        confidences=quartiles,
        above_median=above,
        deciles=tuple((int(counts[i]), int(regressions[i])) for i in np.flatnonzero(counts)),
    )


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
    logits: Logits, temperatures: tuple[float, ...], exits: Ints, labels: Ints
) -> tuple[CalibrationAnalysis, ...]:
    """Calibration of every stage on all examples, then of the cascade, whose logits are those at the exit.

    `logits` are (num_stages, n, num_labels) before scaling, `exits` (n,) stages counted from 0. The exits are
    the same before and after scaling, so both describe the same predictions.
    """
    raw, scaled, rows = logits.astype(np.float64), scale_stages(logits, temperatures), np.arange(len(labels))
    predictors: list[tuple[str, float | None, Floats, Floats]] = [
        (f"stage {number} alone", temperature, before, after)
        for number, (temperature, before, after) in enumerate(zip(temperatures, raw, scaled, strict=True), 1)
    ]
    predictors.append(("cascade", None, raw[exits, rows], scaled[exits, rows]))
    analyses = []
    for name, temperature, before, after in predictors:
        correct = after.argmax(axis=1) == labels
        metrics = calibration_metrics(before, labels), calibration_metrics(after, labels)
        dis, risk = inversion_score_or_none(after, correct), risk_coverage(log_odds(after), correct)
        analyses.append(CalibrationAnalysis(name, temperature, *metrics, dis, risk))
    return tuple(analyses)
