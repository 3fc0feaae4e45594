"""A guarantee for a saved cascade: the path is frozen on tune rows, then certify rows are read once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.errors import CascadeError, DataError
from cascadebert.evaluation.evaluate import scaled_probabilities, stage_outputs
from cascadebert.inference.cascade import Cascade
from cascadebert.persistence.folder import UsedRows, read_used_rows, stages_sha256, update_folder
from cascadebert.thresholds.certificate import Certificate, CertifiedPoint, Guarantee, GuaranteeResult
from cascadebert.thresholds.operating_point import OperatingPoint
from cascadebert.thresholds.risk_control import (
    CertificationResult,
    StageOutputs,
    certify,
    operating_path,
    point_losses,
    required_sample_size,
)
from cascadebert.thresholds.select import ThresholdSelection, evaluate_thresholds
from cascadebert.tuning.engine_parity import check_engine_parity
from cascadebert.tuning.tune import (
    CachedOutputs,
    TuningResult,
    at_operating_point,
    cache_outputs,
    costs_in_unit,
    load_local_cascade,
    recalibrate,
    score_cached,
    store_operating_point,
    tuning_metrics,
)
from cascadebert.types import CostUnit, ScoreChoice

if TYPE_CHECKING:
    import datasets

log = logging.getLogger("cascadebert")
TUNE_ONE_IN = 3
FEWEST_TUNE_ROWS = 50


class CertificationFailed(CascadeError):
    """No operating point could be certified.

    Attributes:
        safest: the first point of the path.
        kept: what is certain there, promise by promise.
        n: certify rows.
    """

    def __init__(self, safest: CertifiedPoint, kept: Sequence[GuaranteeResult], n: int, advice: str) -> None:
        self.safest, self.kept, self.n = safest, tuple(kept), n
        found = "; ".join(f"{one.guarantee.words}: no better than {one.bound:.4f} is certain" for one in kept)
        super().__init__(
            f"this cannot be promised from {n:,} certify rows. At the safest point ({safest.speedup:.2f}x) "
            f"{found}. {advice}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The refusal as plain values: `feasible` is false, and `nearest` is what is certain where."""
        first = self.kept[0]
        return {
            "feasible": False,
            "thresholds": None,
            "n": self.n,
            "accuracy": None,
            "exit_rates": None,
            "expected_speedup": None,
            "nearest": {"guarantee": first.guarantee.name, "value": first.bound, **asdict(self.safest)},
            "certificate": None,
        }


@dataclass(frozen=True)
class Split:
    """Rows of a file by what they may serve for.

    Attributes:
        tune: that the path is found on.
        certify: that have had no say in anything.
        notices: what was left out, one sentence each.
    """

    tune: Examples
    certify: Examples
    notices: tuple[str, ...]


def certify_folder(
    path: Path,
    data: str | Path | datasets.Dataset | Examples,
    *,
    guarantees: Sequence[Guarantee],
    confidence_level: float,
    cost_unit: CostUnit = "flops",
    columns: Columns | None = None,
    score: ScoreChoice | None = None,
    engine: str = "auto",
    precision: str = "auto",
) -> TuningResult:
    """Find the fastest operating point at which promises hold on new data, and store it with its certificate.

    Args:
        path: a saved cascade.
        data: rows like those the cascade will meet (see `split_rows`); labels are needed unless all that is
            promised is agreement.
        promises: what is to hold, all of it together.
        confidence_level: 1 - delta, such as 0.95.
        cost_unit: what speed-up is counted in.
        columns: names of the columns, where not the usual ones.
        score: what to compare with thresholds; "auto" picks one; None keeps the folder's.
        engine: to certify for: another than before, or "auto" for the same.
        precision: likewise.

    Raises:
        NotCertified: if no point can be certified; thresholds stay, and the certify rows are spent.
        CascadeError: if there are fewer rows than the promises can ever need, before any model has run.
    """
    delta = _delta(guarantees, confidence_level)
    cascade = load_local_cascade(path, engine, precision)
    assert cascade.spec is not None
    labels = any(guarantee.name != "min_agreement" for guarantee in guarantees)
    used = read_used_rows(path)
    rows = split_rows(load_examples(data, columns=columns, labels=labels, split="validation"), used)
    _say_rows_needed(guarantees, delta, rows.certify)
    plan = _plan(cascade, rows, guarantees, delta, cost_unit, score)
    tested = _read_once(plan, rows.certify, delta)
    now_used = replace(
        used,
        tune=np.union1d(used.tune, rows.tune.hashes()),
        consumed=np.union1d(used.consumed, rows.certify.hashes()),
    )
    if not tested.accepted:
        update_folder(path, cascade.spec, now_used)
        raise CertificationFailed(plan.point(0), plan.kept(tested), len(rows.certify), plan.advice(delta))
    point = plan.certified(tested, delta, rows.certify)
    tuned = at_operating_point(plan.cascade, plan.cached, point)
    store_operating_point(path, plan.cascade, tuned, rows.tune, now_used)
    return tuned


def split_rows(rows: Examples, used: UsedRows) -> Split:
    """Rows that may tune and rows that may certify.

    Rows that the cascade was trained on, or that an earlier certificate has read, serve for neither. Rows
    kept for guarantees certify; rows that it was tuned on tune; of others one in three tunes, by its content.

    Raises:
        DataError: if none is left to certify, or fewer than 50 to tune.
    """
    hashes = rows.hashes()
    trained, consumed = np.isin(hashes, used.train), np.isin(hashes, used.consumed)
    free = ~(trained | consumed)
    kept, tuned = np.isin(hashes, used.certify), np.isin(hashes, used.tune)
    certify_rows = free & (kept | ~(tuned | (hashes % TUNE_ONE_IN == 0)))
    tune_rows = free & ~certify_rows
    for what, some, least in (("certify", certify_rows, 1), ("tune", tune_rows, FEWEST_TUNE_ROWS)):
        if some.sum() < least:
            raise DataError(
                f"{rows.source}: of its {len(rows):,} rows {some.sum():,} may {what}, {least} or more are "
                f"needed; {trained.sum():,} were trained on, {tuned.sum():,} tuned on, and {consumed.sum():,} "
                "were read by an earlier certificate and cannot serve another. Give new rows."
            )
    notices = []
    if trained.any():
        notices.append(f"{trained.sum():,} of {len(rows):,} rows left out: trained on.")
    if consumed.any():
        notices.append(
            f"{consumed.sum():,} of {len(rows):,} rows left out: an earlier certificate has read them."
        )
    return Split(
        rows.take(np.flatnonzero(tune_rows)), rows.take(np.flatnonzero(certify_rows)), tuple(notices)
    )


@dataclass(frozen=True)
class _Plan:
    """All that is decided before a certify row is read."""

    cascade: Cascade
    cached: CachedOutputs
    answers: StageOutputs
    guarantees: tuple[Guarantee, ...]
    path: tuple[ThresholdSelection, ...]
    cost_unit: CostUnit
    notices: tuple[str, ...]

    def point(self, place: int) -> CertifiedPoint:
        chosen = self.path[place]
        return CertifiedPoint(chosen.thresholds, chosen.exit_rates, chosen.speedup)

    def kept(self, tested: CertificationResult) -> tuple[GuaranteeResult, ...]:
        return tuple(
            GuaranteeResult(guarantee, n, guarantee.bound(risk))
            for guarantee, n, risk in zip(self.guarantees, tested.rows, tested.bounds, strict=True)
        )

    def certified(self, tested: CertificationResult, delta: float, rows: Examples) -> OperatingPoint:
        """The fastest accepted point, with its certificate."""
        assert self.cascade.spec is not None
        here = self.cascade.stages[-1].engine
        certificate = Certificate(
            guarantees=self.kept(tested),
            delta=delta,
            n=len(rows),
            points=tuple(self.point(place) for place in range(tested.accepted)),
            engine=here.name,
            precision=here.precision,
            device=here.device,
            source=rows.source,
            data_sha256=rows.sha256(),
            temperatures=self.cascade.temperatures,
            stages_sha256=stages_sha256(self.cascade.spec),
        )
        chosen = self.path[tested.accepted - 1]
        expected = tuning_metrics(chosen, _measure(self.guarantees), self.cost_unit, None, self.notices)
        return OperatingPoint(chosen.thresholds, expected, certificate)

    def advice(self, delta: float) -> str:
        """What would help, judged by the tune rows at the safest point."""
        needed = []
        for guarantee in self.guarantees:
            seen = point_losses(self.answers, guarantee, self.path[0].thresholds)
            expected = float(seen.mean()) if len(seen) else guarantee.risk
            needed.append(
                (guarantee, required_sample_size(guarantee, expected, delta / len(self.guarantees)))
            )
        hopeless = [guarantee.words for guarantee, count in needed if count is None]
        if hopeless:
            return f"By the tune rows no number of rows would do for {', '.join(hopeless)}: ask for less."
        most = max(count for _, count in needed if count is not None)
        return f"By the tune rows about {most:,} rows would do: give as many new ones, or ask for less."


def _plan(
    cascade: Cascade,
    rows: Split,
    guarantees: Sequence[Guarantee],
    delta: float,
    cost_unit: CostUnit,
    score: ScoreChoice | None,
) -> _Plan:
    cached, notices = cache_outputs(cascade, rows.tune), rows.notices
    if (
        cascade.uncertified_reason is not None
    ):  # another engine: its labels are checked, its temperatures its own
        notices += check_engine_parity(cascade.stages, rows.tune.texts, cached.logits)
        cascade = recalibrate(cascade, cached)
    costs = costs_in_unit(cascade, cached, cost_unit)
    probabilities = scaled_probabilities(cascade, cached.logits)
    labels = probabilities.argmax(axis=2)
    right = labels[-1] if _measure(guarantees) == "agreement" else cached.labels
    losses = (labels != right).astype(np.float64)
    made = score_cached(cascade, probabilities, losses, costs, score)
    answers = StageOutputs(made.confidences, labels, cached.labels, cascade.label_names)
    curve = operating_path(answers, guarantees, costs.rows, delta, last_stage_cost=costs.last_stage_cost)
    path = tuple(
        evaluate_thresholds(
            tuple(point.tolist()), made.confidences, losses, costs.rows, last_stage_cost=costs.last_stage_cost
        )
        for point in curve.thresholds
    )
    cascade, notices = replace(cascade, score=made.score), (*notices, *made.notices)
    return _Plan(cascade, cached, answers, tuple(guarantees), path, cost_unit, notices)


def _read_once(plan: _Plan, rows: Examples, delta: float) -> CertificationResult:
    """Run the stages on the certify rows and test the path."""
    truth = None if rows.labels is None else rows.label_ids(plan.cascade.label_names)
    answers = stage_outputs(plan.cascade, rows.texts, truth)
    return certify(answers, np.array([one.thresholds for one in plan.path]), plan.guarantees, delta=delta)


def _measure(guarantees: Sequence[Guarantee]) -> Literal["accuracy", "agreement"]:
    return "agreement" if all(one.name == "min_agreement" for one in guarantees) else "accuracy"


def _delta(guarantees: Sequence[Guarantee], confidence_level: float) -> float:
    if not 0.5 <= confidence_level < 1:
        raise CascadeError(
            f"a confidence level lies between 0.5 and 1 (such as 0.95), not at {confidence_level}"
        )
    if not guarantees or len({(one.name, one.label) for one in guarantees}) < len(guarantees):
        given = ", ".join(one.words for one in guarantees) or "none"
        raise CascadeError(f"a guarantee is one promise or more, each once; given: {given}")
    return round(1 - confidence_level, 12)


def _say_rows_needed(guarantees: Sequence[Guarantee], delta: float, rows: Examples) -> None:
    """Say how many rows the promises need; refuse where even rows without any loss would be too few."""
    share = delta / len(guarantees)
    for guarantee in guarantees:
        count = len(rows)
        if guarantee.label is not None and rows.labels is not None:
            count = sum(str(label) == guarantee.label for label in rows.labels)
        least, likely = (
            required_sample_size(guarantee, 0.0, share),
            required_sample_size(guarantee, guarantee.risk / 2, share),
        )
        said = (
            f"{guarantee.words}, delta {share:g}: {least:,} rows if nothing is lost, {likely:,} at half of it"
        )
        log.info("%s; given: %s", said, f"{count:,}")
        if least is None or count < least:
            raise CascadeError(
                f"{guarantee.words} at a confidence level of {1 - delta:g} needs {least:,} certify rows or "
                f"more even if nothing is lost, and {likely:,} if half of it is; given: {count:,}. Give more "
                "rows, or ask for less."
            )
