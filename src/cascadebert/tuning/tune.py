"""Pick an operating point for a cascade on rows that its stages were not trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, load_examples, shorten
from cascadebert.environment import machine
from cascadebert.errors import DataError, FolderError
from cascadebert.evaluation.cost_model import LatencyModel, RowCosts, counted_costs, measure_latency
from cascadebert.evaluation.evaluate import report_on_logits, scaled_probabilities
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.cascade import Cascade
from cascadebert.persistence.folder import UsedRows, read_used_rows, update_folder
from cascadebert.persistence.schema import MeasuredTiming, StageSpec, TunedOn
from cascadebert.thresholds.confidence import Score, histogram
from cascadebert.thresholds.deferral_score import ScoredOutputs, score_outputs, select_score
from cascadebert.thresholds.operating_point import OperatingPoint, Target, TuningMetrics
from cascadebert.thresholds.select import (
    InfeasibleTarget,
    ThresholdSelection,
    cross_validate,
    exit_stages,
    select_thresholds,
    speedup,
)
from cascadebert.thresholds.temperature import fit_temperature
from cascadebert.tuning.engine_parity import check_engine_parity
from cascadebert.types import CostUnit, Floats, Histogram, Ints, Logits, Report, ScoreChoice

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class TuningResult:
    """An operating point and what stands behind it.

    Attributes:
        point: the thresholds and what they gave.
        report: the cascade at that point on the same rows; None without labels.
        score: what is compared with the thresholds.
        timing: seconds measured on this machine, stage by stage, and what follows from them.
        calibration: the first stage's confidences on the same rows.
    """

    point: OperatingPoint
    report: Report | None
    timing: MeasuredTiming
    score: Score
    calibration: Histogram


@dataclass(frozen=True)
class CachedOutputs:
    """What every decision on tune rows needs: no model runs after this.

    Attributes:
        logits: (num_stages, n, num_labels), before scaling.
        encoded: each stage's tokens.
        labels: (n,) label ids, or None.
        seconds: what a row takes on this machine.
    """

    logits: Logits
    encoded: list[TokenizedTexts]
    labels: Ints | None
    seconds: LatencyModel


def tune(
    cascade: Cascade,
    data: str | Path | datasets.Dataset | Examples,
    *,
    target: Target,
    cost_unit: CostUnit = "flops",
    columns: Columns | None = None,
) -> OperatingPoint:
    """The thresholds that meet a target on the given rows.

    Args:
        cascade: its stages and temperatures stay as they are.
        data: rows like those the cascade will meet; labels are needed for accuracy targets, and without
            them a speed-up is bought with the least disagreement with the last stage.
        target: what must hold.
        cost_unit: what speed-up is counted in.
        columns: names of the columns, where not the usual ones.

    Raises:
        InfeasibleTarget: if no thresholds meet it; names the nearest.
        DataError: if rows or labels cannot be used.
    """
    examples, notices = _tune_rows(cascade, data, target, columns)
    return select_operating_point(cascade, cache_outputs(cascade, examples), target, cost_unit, notices).point


def tune_folder(
    path: Path,
    data: str | Path | Examples,
    *,
    target: Target,
    cost_unit: CostUnit = "flops",
    columns: Columns | None = None,
    score: ScoreChoice | None = None,
    engine: str = "auto",
    precision: str = "auto",
) -> TuningResult:
    """Pick a new operating point for a saved cascade and store it there.

    Args:
        path: the folder; unchanged if the target cannot be met.
        data: as for `tune`.
        target: what must hold.
        cost_unit: what speed-up is counted in.
        columns: names of the columns, where not the usual ones.
        score: what to compare with thresholds; "auto" picks one; None keeps the folder's.
        engine: to pick them on: another than before, or "auto" for the same.
        precision: likewise.
    """
    cascade = load_local_cascade(path, engine, precision)
    examples, notices = _tune_rows(cascade, data, target, columns)
    cached = cache_outputs(cascade, examples)
    if (
        cascade.uncertified_reason is not None
    ):  # another engine: its labels are checked, its temperatures its own
        notices += check_engine_parity(cascade.stages, examples.texts, cached.logits)
        cascade = recalibrate(cascade, cached)
    tuned = select_operating_point(cascade, cached, target, cost_unit, notices, score=score)
    used = read_used_rows(path)
    store_operating_point(
        path, cascade, tuned, examples, replace(used, tune=np.union1d(used.tune, examples.hashes()))
    )
    return tuned


def load_local_cascade(path: Path, engine: str, precision: str) -> Cascade:
    """A saved cascade to be changed where it lies.

    Raises:
        FolderError: if there is no such folder.
    """
    if not path.is_dir():
        raise FolderError(f"{path}: no such folder. To tune a repository of the Hub, save it here first.")
    return Cascade.from_pretrained(path, engine=engine, precision=precision)


def store_operating_point(
    path: Path, cascade: Cascade, tuned: TuningResult, examples: Examples, rows: UsedRows
) -> None:
    """Write a new operating point into a saved cascade.

    Args:
        path: the folder.
        cascade: from it, with the temperatures that the point belongs to.
        tuned: the point.
        examples: the rows that it was picked on.
        rows: all rows used so far.
    """
    assert cascade.spec is not None
    here = cascade.stages[-1].engine
    spec = cascade.spec.model_copy(
        update={
            "stages": stage_specs(cascade),
            "score": tuned.score,
            "operating_point": tuned.point,
            "tuned_on": TunedOn(
                engine=here.name,
                precision=here.precision,
                device=here.device,
                source=examples.source,
                data_sha256=examples.sha256(),
            ),
            "measured": tuned.report,
            "timing": tuned.timing,
            "calibration": tuned.calibration,
        }
    )
    update_folder(path, spec, rows)


def stage_specs(cascade: Cascade) -> tuple[StageSpec, ...]:
    """What the folder says of its stages, with the cascade's temperatures."""
    assert cascade.spec is not None
    return tuple(
        entry.model_copy(update={"temperature": temperature})
        for entry, temperature in zip(cascade.spec.stages, cascade.temperatures, strict=True)
    )


def _tune_rows(
    cascade: Cascade,
    data: str | Path | datasets.Dataset | Examples,
    target: Target,
    columns: Columns | None,
) -> tuple[Examples, tuple[str, ...]]:
    examples = load_examples(data, columns=columns, labels=needs_labels(target), split="validation")
    return unused_rows(cascade, examples)


def needs_labels(target: Target) -> bool:
    """Whether a target speaks of accuracy."""
    return target.name in ("max_accuracy_drop", "min_accuracy")


def unused_rows(cascade: Cascade, examples: Examples) -> tuple[Examples, tuple[str, ...]]:
    """The rows that thresholds may be picked on.

    Confidence is too high on rows that the stages were trained on, and rows kept for guarantees stay unread.

    Raises:
        DataError: if none is left.
    """
    if cascade.path is None:
        return examples, ()
    used = read_used_rows(cascade.path)
    keep = ~np.isin(examples.hashes(), np.union1d(used.train, used.certify))
    if keep.all():
        return examples, ()
    if not keep.any():
        raise DataError(
            f"{examples.source}: every one of its rows was trained on or is kept for guarantees, so it says "
            "nothing about new ones. Give held-out rows."
        )
    dropped = int((~keep).sum())
    notice = f"{dropped:,} of {len(examples):,} rows left out: trained on, or kept for guarantees."
    return examples.take(np.flatnonzero(keep)), (notice,)


def cache_outputs(cascade: Cascade, examples: Examples) -> CachedOutputs:
    """Run every stage on every row, once, and time some of them."""
    labels = None if examples.labels is None else examples.label_ids(cascade.label_names)
    encoded = cascade.encode(examples.texts)
    seconds = measure_latency(cascade.stages, examples.texts, encoded)
    return CachedOutputs(cascade.stage_logits(examples.texts), encoded, labels, seconds)


def select_operating_point(
    cascade: Cascade,
    cached: CachedOutputs,
    target: Target,
    cost_unit: CostUnit,
    notices: tuple[str, ...] = (),
    *,
    score: ScoreChoice | None = None,
) -> TuningResult:
    """Choose thresholds on cached logits.

    Args:
        cascade: for its stages and temperatures.
        cached: from `cache_outputs`.
        target: what must hold.
        cost_unit: what speed-up is counted in.
        notices: said before those of the choice itself.
        score: what to compare with thresholds; "auto" picks one; None keeps the cascade's.

    Raises:
        InfeasibleTarget: if no thresholds meet the target.
    """
    probabilities = scaled_probabilities(cascade, cached.logits)
    metric, losses = _losses(probabilities, cached.labels, target)
    costs = costs_in_unit(cascade, cached, cost_unit)
    made = score_cached(cascade, probabilities, losses, costs, score)
    cascade, confidences = replace(cascade, score=made.score), made.confidences
    try:
        choice = select_thresholds(
            confidences, losses, costs.rows, target=target, last_stage_cost=costs.last_stage_cost
        )
    except InfeasibleTarget as refused:
        raise InfeasibleTarget(target, refused.nearest, unit=f"by {cost_unit}") from None
    notices = (*notices, *made.notices, *_absent(cascade, cached.labels))
    expected = tuning_metrics(choice, metric, cost_unit, target, notices)
    lost = cross_validate(
        confidences, losses, costs.rows, target=target, last_stage_cost=costs.last_stage_cost
    )
    expected = replace(expected, cross_validated=None if lost is None else 1 - lost)
    return at_operating_point(cascade, cached, OperatingPoint(choice.thresholds, expected))


def score_cached(
    cascade: Cascade, probabilities: Floats, losses: Floats, costs: RowCosts, score: ScoreChoice | None
) -> ScoredOutputs:
    """The score that was asked for, with the confidences of tune rows to pick thresholds on."""
    if score is None:
        return ScoredOutputs(cascade.score, cascade.score.all_stages(probabilities))
    if score == "auto":
        return select_score(probabilities, losses, costs.rows, last_stage_cost=costs.last_stage_cost)
    return score_outputs(score, probabilities)


def costs_in_unit(cascade: Cascade, cached: CachedOutputs, cost_unit: CostUnit) -> RowCosts:
    """What the cached rows cost at each stage, in the given unit."""
    if cost_unit == "measured":
        return cached.seconds.costs(cached.encoded)
    return counted_costs(cascade.stages, cached.encoded, cost_unit)


def tuning_metrics(
    choice: ThresholdSelection,
    metric: Literal["accuracy", "agreement"],
    cost_unit: CostUnit,
    target: Target | None,
    notices: tuple[str, ...],
) -> TuningMetrics:
    """What a choice of thresholds gave on the tune rows."""
    return TuningMetrics(
        n=choice.n,
        metric=metric,
        value=1 - choice.loss,
        last_stage=1 - choice.last_loss,
        exit_rates=choice.exit_rates,
        cost_unit=cost_unit,
        speedup=choice.speedup,
        target=target,
        notices=(*notices, *choice.notices),
    )


def at_operating_point(cascade: Cascade, cached: CachedOutputs, point: OperatingPoint) -> TuningResult:
    """An operating point with the report and the timing of the cached rows."""
    done = None
    if cached.labels is not None:
        done = report_on_logits(
            cascade.with_operating_point(point), cached.logits, cached.encoded, cached.labels
        )
    clock = cached.seconds.costs(cached.encoded)
    confidences = cascade.score.all_stages(scaled_probabilities(cascade, cached.logits))
    exits = exit_stages(confidences, point.thresholds)
    timing = MeasuredTiming(
        machine=machine(),
        stages=cached.seconds.stages,
        tokenising=cached.seconds.tokenising,
        expected_speedup=round(speedup(exits, clock.rows, clock.last_stage_cost), 4),
    )
    return TuningResult(point, done, timing, cascade.score, histogram(confidences[0]))


def _losses(
    probabilities: Floats, labels: Ints | None, target: Target
) -> tuple[Literal["accuracy", "agreement"], Floats]:
    """What is counted as wrong: another answer than the label, or than the last stage."""
    answers = probabilities.argmax(axis=2)
    if labels is None or target.name == "min_agreement":
        return "agreement", (answers != answers[-1]).astype(np.float64)
    return "accuracy", (answers != labels).astype(np.float64)


def _absent(cascade: Cascade, labels: Ints | None) -> tuple[str, ...]:
    if labels is None:
        return ()
    present = set(labels.tolist())
    absent = [name for i, name in enumerate(cascade.label_names) if i not in present]
    if not absent:
        return ()
    return (f"no tune row has the label {shorten(absent)}: nothing is known about it here.",)


def recalibrate(cascade: Cascade, cached: CachedOutputs) -> Cascade:
    """The cascade with temperatures fitted on labelled tune rows; without labels it stays as it is."""
    if cached.labels is None:
        return cascade
    labels = cached.labels
    return replace(cascade, temperatures=tuple(fit_temperature(one, labels) for one in cached.logits))
