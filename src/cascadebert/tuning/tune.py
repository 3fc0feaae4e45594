"""Selection of operating points on examples that the stages were not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import DataSource, Examples
from cascadebert.data.labels import shorten
from cascadebert.environment import machine
from cascadebert.errors import FolderError
from cascadebert.evaluation.cost_model import LatencyModel, counted_costs, measure_latency
from cascadebert.evaluation.evaluate import leave_out, load_for, report_on_logits, scaled_probabilities
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.engines.base import ENGINE_FILE
from cascadebert.inference.engines.load import engine_options
from cascadebert.inference.stage import truncation_notices
from cascadebert.paths import check_roles, ensure_creatable
from cascadebert.persistence.folder import (
    SPEC_FILE,
    UPDATED_FILES,
    UsedRows,
    read_folder,
    read_used_rows,
    update_folder,
)
from cascadebert.persistence.schema import MeasuredTiming, TunedOn
from cascadebert.thresholds.confidence import Score, fit_temperature, histogram
from cascadebert.thresholds.deferral_score import ScoredOutputs, score_outputs, select_score
from cascadebert.thresholds.operating_point import OperatingPoint, Target, TuningMetrics
from cascadebert.thresholds.risk_control import StageOutputs
from cascadebert.thresholds.select import (
    InfeasibleTarget,
    ThresholdSelection,
    TuningArrays,
    cross_validate,
    exit_stages,
    search_thresholds,
    speedup,
)
from cascadebert.tuning.engine_choice import check_engine_parity, choose_engine
from cascadebert.types import CostUnit, Histogram, Ints, Logits, Report, ScoreChoice

Metric = Literal["accuracy", "agreement"]


@dataclass(frozen=True)
class TuningResult:
    """An operating point and the measurements behind it."""

    point: OperatingPoint
    report: Report | None  # of the cascade at that point on the tuning set; None without labels
    timing: MeasuredTiming
    score: Score  # compared with the thresholds
    calibration: Histogram  # confidences of the first stage on the tuning set


@dataclass(frozen=True)
class CachedOutputs:
    """Outputs of every stage on one set of examples; tuning needs no further forward pass."""

    logits: Logits  # (num_stages, n, num_labels), before scaling
    encoded: list[TokenizedTexts]  # each stage's tokens
    labels: Ints | None  # (n,) label ids
    latency: LatencyModel


@dataclass(frozen=True)
class SelectionInputs:
    """Scored outputs, losses and costs of the tuning set, from which thresholds are selected."""

    cascade: Cascade  # with the selected score
    cached: CachedOutputs
    metric: Metric
    cost_unit: CostUnit
    outputs: StageOutputs
    arrays: TuningArrays  # losses are 1 where the prediction is not the label (or not the last stage's)
    notices: tuple[str, ...]  # on the score and on truncation

    def metrics(
        self, selection: ThresholdSelection, target: Target | None, notices: tuple[str, ...]
    ) -> TuningMetrics:
        """Metrics of selected thresholds."""
        return TuningMetrics(
            n=selection.n,
            metric=self.metric,
            value=1 - selection.loss,
            last_stage=1 - selection.last_stage_loss,
            exit_rates=selection.exit_rates,
            cost_unit=self.cost_unit,
            speedup=selection.speedup,
            target=target,
            notices=(*notices, *self.notices, *selection.notices),
        )


def tune(
    cascade: Cascade,
    data: DataSource,
    *,
    target: Target,
    cost_unit: CostUnit = "flops",
    columns: Columns | None = None,
) -> OperatingPoint:
    """Select the thresholds that meet a target on the given examples.

    Args:
        cascade: its stages and temperatures are not changed.
        data: examples like those to come, that no stage was trained on. Accuracy targets need labels; without
            labels a speed-up is reached with the least disagreement with the last stage.
        target: the requirement.
        cost_unit: the unit in which the speed-up is counted.
        columns: names of the columns, where they are not the usual ones.

    Returns:
        The thresholds, with their metrics on these examples; see `Cascade.with_operating_point`.

    Raises:
        InfeasibleTarget: if no thresholds meet the target; it names the nearest value that can be met.
        DataError: if the examples or their labels cannot be used.
    """
    examples = load_for(cascade, data, columns=columns, labels=needs_labels(target))
    examples, notices = _leave_out_used(cascade, examples)
    return select_operating_point(cascade, cache_outputs(cascade, examples), target, cost_unit, notices).point


def tune_folder(
    path: Path,
    data: DataSource,
    *,
    target: Target,
    cost_unit: CostUnit = "flops",
    columns: Columns | None = None,
    score: ScoreChoice | None = None,
    engine: str | None = None,
    precision: str | None = None,
) -> TuningResult:
    """Select a new operating point for a saved cascade and store it; an infeasible target changes nothing.

    With `score` "auto" the best score is selected, with None the folder's is kept. `engine` and `precision`
    are those to tune for: both None keep the folder's, "auto" chooses as for `assemble`, another engine
    without a precision among its own. The rest is as for `tune`.
    """
    load = partial(load_for, data=data, columns=columns, labels=needs_labels(target))
    cascade, examples = load_local_cascade(path, engine, precision, data, load)
    examples, notices = _leave_out_used(cascade, examples)
    cascade, cached, parity_notices = calibrated_outputs(cascade, examples)
    notices += parity_notices
    result = select_operating_point(cascade, cached, target, cost_unit, notices, score=score)
    used = read_used_rows(path)
    used = replace(used, tune=np.union1d(used.tune, examples.hashes()))
    store_operating_point(path, cascade, result, examples, used)
    return result


def load_local_cascade(
    path: Path,
    engine: str | None,
    precision: str | None,
    data: DataSource,
    load: Callable[[Cascade], Examples],
) -> tuple[Cascade, Examples]:
    """Load a saved cascade that is to be changed by means of `data`, and the examples in it.

    Raises FolderError if there is no such folder, and DataError if it cannot be written to, or one of the
    files that change is among the data.
    """
    if not path.is_dir():
        raise FolderError(f"{path}: no such folder. To tune a repository of the Hub, save it here first.")
    check_roles({"DIR": [path / name for name in UPDATED_FILES]}, {"--data": data})
    ensure_creatable(path / SPEC_FILE)
    if engine is None and precision is None:
        cascade = Cascade.from_pretrained(path)
        return cascade, load(cascade)
    options = _tuned_options(path, engine, precision)
    cascade = Cascade.from_pretrained(path, engine=options[0][0], precision=options[0][1])
    examples = load(cascade)
    choice = choose_engine(cascade.stages[-1], options, examples.texts)
    if (choice.engine, choice.precision) != options[0]:
        cascade = Cascade.from_pretrained(path, engine=choice.engine, precision=choice.precision)
    assert cascade.spec is not None
    return replace(cascade, spec=cascade.spec.model_copy(update={"engines": choice.timed})), examples


def _tuned_options(path: Path, engine: str | None, precision: str | None) -> list[tuple[str, str]]:
    """The engines and precisions to choose from in tuning a saved cascade."""
    spec = read_folder(path)
    tuned = spec.tuned_on
    if engine is None and precision != "auto" and tuned is not None:
        engine = tuned.engine
    if tuned is not None and engine == tuned.engine and precision is None:
        precision = tuned.precision
    if engine in (None, "auto") and not (path / spec.stages[-1].path / ENGINE_FILE).is_file():
        engine = "torch"  # the only one that runs it
    return engine_options(engine or "auto", precision or "auto")


def store_operating_point(
    path: Path, cascade: Cascade, result: TuningResult, tuning_set: Examples, used: UsedRows
) -> None:
    """Write an operating point, and the temperatures it belongs to, into the folder of the cascade."""
    assert cascade.spec is not None
    stages = tuple(
        stage.model_copy(update={"temperature": temperature})
        for stage, temperature in zip(cascade.spec.stages, cascade.temperatures, strict=True)
    )
    update = {"stages": stages, **spec_fields(cascade, result, tuning_set)}
    update_folder(path, cascade.spec.model_copy(update=update), used)


def spec_fields(cascade: Cascade, result: TuningResult, tuning_set: Examples) -> dict[str, Any]:
    """The fields of a `CascadeSpec` that describe an operating point."""
    return {
        "score": result.score,
        "operating_point": result.point,
        "tuned_on": TunedOn(**measured_on(cascade, tuning_set)),
        "measured": result.report,
        "timing": result.timing,
        "calibration": result.calibration,
    }


def measured_on(cascade: Cascade, examples: Examples) -> dict[str, Any]:
    """The fields of `TunedOn` and `Certificate` that describe the engine and the examples."""
    engine = cascade.stages[-1].engine
    return {
        "engine": engine.name,
        "precision": engine.precision,
        "device": engine.device,
        "source": examples.source,
        "data_sha256": examples.sha256(),
    }


def needs_labels(target: Target) -> bool:
    """True if the target is about accuracy."""
    return target.name in ("max_accuracy_drop", "min_accuracy")


def _leave_out_used(cascade: Cascade, examples: Examples) -> tuple[Examples, tuple[str, ...]]:
    """The examples without those trained on (stages are overconfident there) or reserved, and notices."""
    if cascade.path is None:
        return examples, ()
    used = read_used_rows(cascade.path)
    unusable = np.union1d(used.train, used.certify)
    return leave_out(examples, unusable, "trained on, or reserved for certification")


def cache_outputs(cascade: Cascade, examples: Examples) -> CachedOutputs:
    """Run every stage once on every example, and measure their latency."""
    labels = None if examples.labels is None else examples.label_ids(cascade.label_names)
    encoded = cascade.encode(examples.texts)
    latency = measure_latency(cascade.stages, examples.texts, encoded)
    return CachedOutputs(cascade.stage_logits(examples.texts), encoded, labels, latency)


def calibrated_outputs(
    cascade: Cascade, examples: Examples
) -> tuple[Cascade, CachedOutputs, tuple[str, ...]]:
    """`cache_outputs` after `recalibrate`, unless the thresholds belong to this engine; also notices.

    Raises StageError if the engine changes too many labels, see `check_engine_parity`.
    """
    cached = cache_outputs(cascade, examples)
    if cascade.uncertified_reason is None:
        return cascade, cached, ()
    notices = check_engine_parity(cascade.stages, examples.texts, cached.logits)
    return recalibrate(cascade, cached), cached, notices


def recalibrate(cascade: Cascade, cached: CachedOutputs) -> Cascade:
    """The cascade with temperatures fitted to the labels; unchanged without labels."""
    labels = cached.labels
    if labels is None:
        return cascade
    return replace(cascade, temperatures=tuple(fit_temperature(logits, labels) for logits in cached.logits))


def select_operating_point(
    cascade: Cascade,
    cached: CachedOutputs,
    target: Target,
    cost_unit: CostUnit,
    notices: tuple[str, ...] = (),
    *,
    score: ScoreChoice | None = None,
) -> TuningResult:
    """Select thresholds on cached outputs. Raises InfeasibleTarget if no thresholds meet the target.

    `notices` are stored before those of the selection; `score` None keeps the cascade's score.
    """
    unlabeled = cached.labels is None or target.name == "min_agreement"
    metric: Metric = "agreement" if unlabeled else "accuracy"
    inputs = selection_inputs(cascade, cached, metric, cost_unit, score)
    try:
        selection = search_thresholds(inputs.arrays, target)
    except InfeasibleTarget as error:
        raise InfeasibleTarget(target, error.nearest, unit=f"by {cost_unit}") from None
    loss = cross_validate(inputs.arrays, target)
    metrics = inputs.metrics(selection, target, notices + _missing_label_notices(cascade, cached.labels))
    metrics = replace(metrics, cross_validated=None if loss is None else 1 - loss)
    return measure_operating_point(inputs, OperatingPoint(selection.thresholds, metrics))


def selection_inputs(
    cascade: Cascade, cached: CachedOutputs, metric: Metric, cost_unit: CostUnit, score: ScoreChoice | None
) -> SelectionInputs:
    """Score cached outputs, and compute the losses of a metric and the costs in a unit."""
    probabilities = scaled_probabilities(cascade, cached.logits)
    predictions = probabilities.argmax(axis=2)
    expected = predictions[-1] if metric == "agreement" else cached.labels
    losses = (predictions != expected).astype(np.float64)
    if cost_unit == "measured":
        costs = cached.latency.costs(cached.encoded)
    else:
        costs = counted_costs(cascade.stages, cached.encoded, cost_unit)
    if score is None:
        scored = ScoredOutputs(cascade.score, cascade.score.all_stages(probabilities))
    elif score == "auto":
        scored = select_score(probabilities, losses, costs.rows, last_stage_cost=costs.last_stage_cost)
    else:
        scored = score_outputs(score, probabilities)
    cascade = replace(cascade, score=scored.score)
    outputs = StageOutputs(scored.confidences, predictions, cached.labels, cascade.label_names)
    arrays = TuningArrays(scored.confidences, losses, costs.rows, costs.last_stage_cost)
    truncated, last = cached.encoded[-1].truncated, cascade.stages[-1:]
    cut = truncation_notices(last, int(truncated.sum()), len(truncated), "the last stage")
    return SelectionInputs(cascade, cached, metric, cost_unit, outputs, arrays, (*scored.notices, *cut))


def measure_operating_point(inputs: SelectionInputs, point: OperatingPoint) -> TuningResult:
    """Report and expected speed-up of an operating point on the tuning set."""
    cascade, cached, report = inputs.cascade.with_operating_point(point), inputs.cached, None
    if cached.labels is not None:
        report = report_on_logits(cascade, cached.logits, cached.encoded, cached.labels)
    costs = cached.latency.costs(cached.encoded)
    confidences = cascade.score.all_stages(scaled_probabilities(cascade, cached.logits))
    exits = exit_stages(confidences, point.thresholds)
    timing = MeasuredTiming(
        machine=machine(),
        stages=cached.latency.stages,
        tokenizing=cached.latency.tokenizing,
        expected_speedup=round(speedup(exits, costs.rows, costs.last_stage_cost), 4),
    )
    return TuningResult(point, report, timing, cascade.score, histogram(confidences[0]))


def _missing_label_notices(cascade: Cascade, labels: Ints | None) -> tuple[str, ...]:
    names = cascade.label_names
    missing = [] if labels is None else [name for i, name in enumerate(names) if not (labels == i).any()]
    if not missing:
        return ()
    return (f"no tuning example has the label {shorten(missing)}: nothing is known about it here.",)
