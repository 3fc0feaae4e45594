"""Certification of saved cascades: candidates come from a tuning set, guarantees from a separate set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.data.dataset import Columns, DataSource, Examples, load_examples
from cascadebert.errors import CascadeError, DataError
from cascadebert.evaluation.evaluate import stage_outputs
from cascadebert.inference.cascade import Cascade
from cascadebert.persistence.folder import UsedRows, read_used_rows, update_folder
from cascadebert.thresholds.operating_point import (
    Certificate,
    CertifiedPoint,
    Guarantee,
    GuaranteeResult,
    OperatingPoint,
)
from cascadebert.thresholds.risk_control import (
    CertificationResult,
    StageOutputs,
    certify,
    operating_path,
    point_losses,
    required_sample_size,
)
from cascadebert.thresholds.select import ThresholdSelection, evaluate_thresholds
from cascadebert.tuning.tune import (
    Metric,
    SelectionInputs,
    TuningResult,
    adapt_to_engine,
    cache_outputs,
    load_local_cascade,
    measure_operating_point,
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


@dataclass(frozen=True)
class CertificationSplit:
    """Examples for tuning, examples reserved for certification, and notices on those left out."""

    tuning: Examples
    certification: Examples
    notices: tuple[str, ...]


def certify_folder(
    path: Path,
    data: DataSource,
    *,
    guarantees: Sequence[Guarantee],
    confidence_level: float,
    cost_unit: CostUnit = "flops",
    columns: Columns | None = None,
    score: ScoreChoice | None = None,
    engine: str = "auto",
    precision: str = "auto",
) -> TuningResult:
    """Store the fastest operating point at which all guarantees hold on new data, with its certificate.

    `data` is split by `split_rows`; only agreement needs no labels. The confidence level is 1 - delta. The
    other arguments are those of `tune_folder`.

    Raises CertificationFailed if no point can be certified: the thresholds are not changed, but the
    certification set is consumed. Raises CascadeError if the guarantees need more examples than there are,
    before any model runs.
    """
    delta = _delta(guarantees, confidence_level)
    cascade = load_local_cascade(path, engine, precision)
    assert cascade.spec is not None
    used, labels = read_used_rows(path), not _label_free(guarantees)
    split = split_rows(load_examples(data, columns=columns, labels=labels, split="validation"), used)
    certification_set = split.certification
    _check_sample_size(guarantees, delta, certification_set)
    plan = _plan(cascade, split, guarantees, delta, cost_unit, score)
    result = plan.test(certification_set)
    used = replace(
        used,
        tune=np.union1d(used.tune, split.tuning.hashes()),
        consumed=np.union1d(used.consumed, certification_set.hashes()),
    )
    if not result.accepted:
        update_folder(path, cascade.spec, used)
        n = len(certification_set)
        raise CertificationFailed(plan.certified_point(0), result.results, n, plan.advice())
    point = plan.operating_point(result, certification_set)
    tuned = measure_operating_point(plan.inputs, point)
    store_operating_point(path, plan.inputs.cascade, tuned, split.tuning, used)
    return tuned


def split_rows(examples: Examples, used: UsedRows) -> CertificationSplit:
    """Split examples into a tuning set and a certification set.

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
    return CertificationSplit(tuning, certification, notices)


@dataclass(frozen=True)
class _Plan:
    """Everything that is fixed before the certification set is read."""

    inputs: SelectionInputs
    outputs: StageOutputs  # of the tuning set
    guarantees: tuple[Guarantee, ...]
    delta: float
    path: tuple[ThresholdSelection, ...]  # candidates, most conservative first
    notices: tuple[str, ...]

    def test(self, examples: Examples) -> CertificationResult:
        labels = None if examples.labels is None else examples.label_ids(self.inputs.cascade.label_names)
        outputs = stage_outputs(self.inputs.cascade, examples.texts, labels)
        thresholds = np.array([selection.thresholds for selection in self.path])
        return certify(outputs, thresholds, self.guarantees, delta=self.delta)

    def certified_point(self, index: int) -> CertifiedPoint:
        selection = self.path[index]
        return CertifiedPoint(selection.thresholds, selection.exit_rates, selection.speedup)

    def operating_point(self, result: CertificationResult, examples: Examples) -> OperatingPoint:
        """The fastest accepted point, with its certificate."""
        cascade = self.inputs.cascade
        assert cascade.spec is not None
        engine = cascade.stages[-1].engine
        certificate = Certificate(
            guarantees=result.results,
            delta=self.delta,
            n=len(examples),
            points=tuple(self.certified_point(index) for index in range(result.accepted)),
            engine=engine.name,
            precision=engine.precision,
            device=engine.device,
            source=examples.source,
            data_sha256=examples.sha256(),
            temperatures=cascade.temperatures,
            stages_sha256=cascade.spec.stages_sha256,
        )
        selection = self.path[result.accepted - 1]
        metrics = self.inputs.metrics(selection, None, self.notices)
        return OperatingPoint(selection.thresholds, metrics, certificate)

    def advice(self) -> str:
        """Sample size that would help, judging by the tuning set at the most conservative point."""
        sizes, infeasible = [], []
        for guarantee in self.guarantees:
            losses = point_losses(self.outputs, guarantee, self.path[0].thresholds)
            expected = float(losses.mean()) if len(losses) else guarantee.max_risk
            size = required_sample_size(guarantee, expected, self.delta / len(self.guarantees))
            if size is None:
                infeasible.append(guarantee.description)
            else:
                sizes.append(size)
        if infeasible:
            names = ", ".join(infeasible)
            return f"By the tuning set no number of examples would suffice for {names}: relax it."
        count = f"about {max(sizes):,} new examples"
        return f"By the tuning set {count} would suffice: give as many, or relax the guarantee."


def _plan(
    cascade: Cascade,
    split: CertificationSplit,
    guarantees: Sequence[Guarantee],
    delta: float,
    cost_unit: CostUnit,
    score: ScoreChoice | None,
) -> _Plan:
    cached = cache_outputs(cascade, split.tuning)
    cascade, parity_notices = adapt_to_engine(cascade, cached, split.tuning.texts)
    metric: Metric = "agreement" if _label_free(guarantees) else "accuracy"
    inputs = selection_inputs(cascade, cached, metric, cost_unit, score)
    arrays = inputs.arrays
    outputs = StageOutputs(arrays.confidences, inputs.predictions, cached.labels, cascade.label_names)
    front = operating_path(outputs, guarantees, arrays.costs, delta, last_stage_cost=arrays.last_stage_cost)
    path = tuple(evaluate_thresholds(arrays, tuple(point)) for point in front.thresholds.tolist())
    notices = (*split.notices, *parity_notices)
    return _Plan(inputs, outputs, tuple(guarantees), delta, path, notices)


def _label_free(guarantees: Sequence[Guarantee]) -> bool:
    return all(guarantee.name == "min_agreement" for guarantee in guarantees)


def _delta(guarantees: Sequence[Guarantee], confidence_level: float) -> float:
    if not 0.5 <= confidence_level < 1:
        raise CascadeError(f"the confidence level must be in [0.5, 1) (such as 0.95), not {confidence_level}")
    if not guarantees or len({(one.name, one.label) for one in guarantees}) < len(guarantees):
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
