"""Certification of saved cascades: candidates come from a tuning set, guarantees from a separate set.

The statistical test is in `cascadebert.thresholds.risk_control`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import DataSource, Examples
from cascadebert.errors import CascadeError, DataError
from cascadebert.evaluation.evaluate import load_for, stage_outputs
from cascadebert.persistence.folder import UsedRows, read_used_rows, update_folder
from cascadebert.thresholds.operating_point import (
    Certificate,
    CertifiedPoint,
    Guarantee,
    GuaranteeResult,
    OperatingPoint,
)
from cascadebert.thresholds.risk_control import (
    StageOutputs,
    certify,
    operating_path,
    point_losses,
    required_sample_size,
)
from cascadebert.thresholds.select import evaluate_thresholds
from cascadebert.tuning.tune import (
    TuningResult,
    calibrated_outputs,
    load_local_cascade,
    measure_operating_point,
    measured_on,
    selection_inputs,
    store_operating_point,
)
from cascadebert.types import CostUnit, ScoreChoice

log = logging.getLogger("cascadebert")
TUNING_MODULUS = 3  # one new example in three, by its hash, is used for tuning
MIN_TUNING_EXAMPLES = 50


class CertificationFailed(CascadeError):
    """No operating point could be certified; `results` are those at the most conservative `point`."""

    def __init__(
        self, point: CertifiedPoint, results: Sequence[GuaranteeResult], n: int, advice: str
    ) -> None:
        self.point, self.results, self.n = point, tuple(results), n
        bounds = "; ".join(
            f"{result.guarantee.description}: only {result.bound:.4f} is certain" for result in results
        )
        super().__init__(
            f"this cannot be guaranteed from {n:,} certification examples. At the most conservative point "
            f"({point.speedup:.2f}x) {bounds}. {advice}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The failure as plain values; `nearest` is the bound at the most conservative point."""
        result = self.results[0]
        unknown = ("thresholds", "accuracy", "exit_rates", "expected_speedup", "certificate")
        return {
            **dict.fromkeys(unknown),
            "feasible": False,
            "n": self.n,
            "nearest": {"guarantee": result.guarantee.name, "value": result.bound, **asdict(self.point)},
        }


def certify_folder(
    path: Path,
    data: DataSource,
    *,
    guarantees: Sequence[Guarantee],
    confidence_level: float,
    cost_unit: CostUnit = "flops",
    columns: Columns | None = None,
    score: ScoreChoice | None = None,
    engine: str | None = None,
    precision: str | None = None,
) -> TuningResult:
    """Store the fastest operating point at which all guarantees hold on new data, with its certificate.

    `data` is split by `split_rows`; only agreement needs no labels. The confidence level is 1 - delta. The
    other arguments are those of `tune_folder`.

    Raises CertificationFailed if no point can be certified: the thresholds are not changed, but the
    certification set is consumed. Raises CascadeError if the guarantees need more examples than there are,
    before any model runs.
    """
    delta = _delta(guarantees, confidence_level)
    label_free = all(guarantee.name == "min_agreement" for guarantee in guarantees)
    load = partial(load_for, data=data, columns=columns, labels=not label_free)
    cascade, examples = load_local_cascade(path, engine, precision, data, load)
    used = read_used_rows(path)
    tuning_set, certification_set, notices = split_rows(examples, used)
    _check_sample_size(guarantees, delta, certification_set)
    cascade, cached, parity_notices = calibrated_outputs(cascade, tuning_set)
    inputs = selection_inputs(cascade, cached, "agreement" if label_free else "accuracy", cost_unit, score)
    cascade, arrays = inputs.cascade, inputs.arrays
    assert cascade.spec is not None
    front = operating_path(
        inputs.outputs, guarantees, arrays.costs, delta, last_stage_cost=arrays.last_stage_cost
    )
    labels = None if certification_set.labels is None else certification_set.label_ids(cascade.label_names)
    outputs = stage_outputs(cascade, certification_set.texts, labels)
    result = certify(outputs, front.thresholds, guarantees, delta=delta)
    consumed = np.union1d(used.consumed, certification_set.hashes())
    used = replace(used, tune=np.union1d(used.tune, tuning_set.hashes()), consumed=consumed)
    candidates = [evaluate_thresholds(arrays, tuple(thresholds)) for thresholds in front.thresholds.tolist()]
    points = [CertifiedPoint(point.thresholds, point.exit_rates, point.speedup) for point in candidates]
    if not result.accepted:
        update_folder(path, cascade.spec, used)
        advice = _advice(inputs.outputs, guarantees, points[0].thresholds, delta)
        raise CertificationFailed(points[0], result.results, len(certification_set), advice)
    fastest = candidates[result.accepted - 1]
    certificate = Certificate(
        guarantees=result.results,
        delta=delta,
        n=len(certification_set),
        points=tuple(points[: result.accepted]),
        temperatures=cascade.temperatures,
        stages_sha256=cascade.spec.stages_sha256,
        **measured_on(cascade, certification_set),
    )
    metrics = inputs.metrics(fastest, None, (*notices, *parity_notices))
    tuned = measure_operating_point(inputs, OperatingPoint(fastest.thresholds, metrics, certificate))
    store_operating_point(path, cascade, tuned, tuning_set, used)
    return tuned


def split_rows(examples: Examples, used: UsedRows) -> tuple[Examples, Examples, tuple[str, ...]]:
    """Split examples into a tuning set and a certification set; also returns notices on those left out.

    Examples that the cascade was trained on, or that an earlier certificate consumed, are left out. Reserved
    examples certify, those that it was tuned on tune; of the rest one in three tunes, by its hash. Raises
    DataError if fewer than 50 are left to tune, or none to certify.
    """
    hashes = examples.hashes()
    trained, consumed = np.isin(hashes, used.train), np.isin(hashes, used.consumed)
    usable, tuned = ~(trained | consumed), np.isin(hashes, used.tune)
    new_for_tuning = hashes % TUNING_MODULUS == 0
    certifies = usable & (np.isin(hashes, used.certify) | ~(tuned | new_for_tuning))
    tunes = usable & ~certifies
    for purpose, mask, minimum in (("certification", certifies, 1), ("tuning", tunes, MIN_TUNING_EXAMPLES)):
        if mask.sum() < minimum:
            raise DataError(
                f"{examples.source}: {mask.sum():,} of its {len(examples):,} examples can be used for "
                f"{purpose}, at least {minimum} are needed; {trained.sum():,} were trained on, "
                f"{tuned.sum():,} tuned on, and {consumed.sum():,} were read by an earlier certificate and "
                "cannot be used for another. Give new examples."
            )
    notices = tuple(
        f"{mask.sum():,} of {len(examples):,} examples left out: {reason}."
        for mask, reason in ((trained, "trained on"), (consumed, "read by an earlier certificate"))
        if mask.any()
    )
    tuning, certification = (examples.take(np.flatnonzero(mask)) for mask in (tunes, certifies))
    return tuning, certification, notices


def _advice(
    outputs: StageOutputs, guarantees: Sequence[Guarantee], thresholds: tuple[float, ...], delta: float
) -> str:
    """Sample size that would help, judging by the tuning set at the most conservative point."""
    sizes = {}
    for guarantee in guarantees:
        losses = point_losses(outputs, guarantee, thresholds)
        expected = float(losses.mean()) if len(losses) else guarantee.max_risk
        size = required_sample_size(guarantee, expected, delta / len(guarantees))
        sizes[guarantee.description] = np.inf if size is None else size
    infeasible = ", ".join(name for name, size in sizes.items() if size == np.inf)
    if infeasible:
        return f"By the tuning set no number of examples would suffice for {infeasible}: relax it."
    count = f"about {max(sizes.values()):,} new examples"
    return f"By the tuning set {count} would suffice: give as many, or relax the guarantee."


def _delta(guarantees: Sequence[Guarantee], confidence_level: float) -> float:
    if not 0.5 <= confidence_level < 1:
        raise CascadeError(f"the confidence level must be in [0.5, 1) (such as 0.95), not {confidence_level}")
    if not guarantees or len({(item.name, item.label) for item in guarantees}) < len(guarantees):
        given = ", ".join(guarantee.description for guarantee in guarantees) or "none"
        raise CascadeError(f"give one guarantee or more, each only once; given: {given}")
    return round(1 - confidence_level, 12)


def _check_sample_size(guarantees: Sequence[Guarantee], delta: float, examples: Examples) -> None:
    """Log the sample size that the guarantees need; raise where even a perfect cascade would fail."""
    for guarantee in guarantees:
        count = len(examples)
        if guarantee.label is not None and examples.labels is not None:
            count = sum(str(label) == guarantee.label for label in examples.labels)
        minimum, typical = (
            required_sample_size(guarantee, risk, delta / len(guarantees)) or np.inf
            for risk in (0.0, guarantee.max_risk / 2)
        )
        message = (
            f"{guarantee.description} at a confidence level of {1 - delta:g} needs {minimum:,} certification "
            f"examples without any loss, {typical:,} with half of the allowed loss; given: {count:,}"
        )
        log.info(message)
        if count < minimum:
            raise CascadeError(f"{message}. Give more examples, or relax the guarantee.")
