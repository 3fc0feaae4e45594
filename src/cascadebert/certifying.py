"""A guarantee for a saved cascade: the path is frozen on tune rows, then certify rows are read once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cascadebert.cascade import Cascade
from cascadebert.data import Examples, load_examples
from cascadebert.errors import CascadeError, DataError
from cascadebert.evaluation import scaled_probabilities, stage_answers
from cascadebert.fidelity import refuse_changed
from cascadebert.folder import UsedRows, stages_sha256, update_folder, used_rows
from cascadebert.guarantees import Answers, Outcome, certify, operating_path, point_losses, rows_needed
from cascadebert.tasks import Columns
from cascadebert.thresholds import Selection, measured_at
from cascadebert.tuning import (
    Cached,
    Tuned,
    at,
    cache,
    costs_of,
    expected_of,
    own_cascade,
    recalibrated,
    scored_rows,
    store,
)
from cascadebert.types import (
    Certificate,
    CertifiedPoint,
    Cost,
    Kept,
    OperatingPoint,
    Promise,
    ScoreChoice,
)

if TYPE_CHECKING:
    import datasets

log = logging.getLogger("cascadebert")
TUNE_ONE_IN = 3
FEWEST_TUNE_ROWS = 50


class NotCertified(CascadeError):
    """No operating point could be certified.

    Attributes:
        safest: the first point of the path.
        kept: what is certain there, promise by promise.
        n: certify rows.
    """

    def __init__(self, safest: CertifiedPoint, kept: Sequence[Kept], n: int, advice: str) -> None:
        self.safest, self.kept, self.n = safest, tuple(kept), n
        found = "; ".join(f"{one.promise.words}: no better than {one.bound:.4f} is certain" for one in kept)
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
            "nearest": {"promise": first.promise.name, "value": first.bound, **asdict(self.safest)},
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
    promises: Sequence[Promise],
    confidence_level: float,
    cost: Cost = "flops",
    columns: Columns | None = None,
    score: ScoreChoice | None = None,
    engine: str = "auto",
    precision: str = "auto",
) -> Tuned:
    """Find the fastest operating point at which promises hold on new data, and store it with its certificate.

    Args:
        path: a saved cascade.
        data: rows like those the cascade will meet (see `split_rows`); labels are needed unless all that is
            promised is agreement.
        promises: what is to hold, all of it together.
        confidence_level: 1 - delta, such as 0.95.
        cost: what speed-up is counted in.
        columns: names of the columns, where not the usual ones.
        score: what to compare with thresholds; "auto" picks one; None keeps the folder's.
        engine: to certify for: another than before, or "auto" for the same.
        precision: likewise.

    Raises:
        NotCertified: if no point can be certified; thresholds stay, and the certify rows are spent.
        CascadeError: if there are fewer rows than the promises can ever need, before any model has run.
    """
    delta = _delta(promises, confidence_level)
    cascade = own_cascade(path, engine, precision)
    assert cascade.spec is not None
    labels = any(promise.name != "min_agreement" for promise in promises)
    used = used_rows(path)
    rows = split_rows(load_examples(data, columns=columns, labels=labels, split="validation"), used)
    _say_rows_needed(promises, delta, rows.certify)
    plan = _plan(cascade, rows, promises, delta, cost, score)
    tested = _read_once(plan, rows.certify, delta)
    now_used = replace(
        used,
        tune=np.union1d(used.tune, rows.tune.hashes()),
        spent=np.union1d(used.spent, rows.certify.hashes()),
    )
    if not tested.accepted:
        update_folder(path, cascade.spec, now_used)
        raise NotCertified(plan.point(0), plan.kept(tested), len(rows.certify), plan.advice(delta))
    point = plan.certified(tested, delta, rows.certify)
    tuned = at(plan.cascade, plan.cached, point)
    store(path, plan.cascade, tuned, rows.tune, now_used)
    return tuned


def split_rows(rows: Examples, used: UsedRows) -> Split:
    """Rows that may tune and rows that may certify.

    Rows that the cascade was trained on, or that an earlier certificate has read, serve for neither. Rows
    kept for guarantees certify; rows that it was tuned on tune; of others one in three tunes, by its content.

    Raises:
        DataError: if none is left to certify, or fewer than 50 to tune.
    """
    hashes = rows.hashes()
    trained, spent = np.isin(hashes, used.train), np.isin(hashes, used.spent)
    free = ~(trained | spent)
    kept, tuned = np.isin(hashes, used.certify), np.isin(hashes, used.tune)
    certify_rows = free & (kept | ~(tuned | (hashes % TUNE_ONE_IN == 0)))
    tune_rows = free & ~certify_rows
    for what, some, least in (("certify", certify_rows, 1), ("tune", tune_rows, FEWEST_TUNE_ROWS)):
        if some.sum() < least:
            raise DataError(
                f"{rows.source}: of its {len(rows):,} rows {some.sum():,} may {what}, {least} or more are "
                f"needed; {trained.sum():,} were trained on, {tuned.sum():,} tuned on, and {spent.sum():,} "
                "were read by an earlier certificate and cannot serve another. Give new rows."
            )
    notices = []
    if trained.any():
        notices.append(f"{trained.sum():,} of {len(rows):,} rows left out: trained on.")
    if spent.any():
        notices.append(
            f"{spent.sum():,} of {len(rows):,} rows left out: an earlier certificate has read them."
        )
    return Split(
        rows.take(np.flatnonzero(tune_rows)), rows.take(np.flatnonzero(certify_rows)), tuple(notices)
    )


@dataclass(frozen=True)
class _Plan:
    """All that is decided before a certify row is read."""

    cascade: Cascade
    cached: Cached
    answers: Answers
    promises: tuple[Promise, ...]
    path: tuple[Selection, ...]
    cost: Cost
    notices: tuple[str, ...]

    def point(self, place: int) -> CertifiedPoint:
        chosen = self.path[place]
        return CertifiedPoint(chosen.thresholds, chosen.exit_rates, chosen.speedup)

    def kept(self, tested: Outcome) -> tuple[Kept, ...]:
        return tuple(
            Kept(promise, n, promise.bound(risk))
            for promise, n, risk in zip(self.promises, tested.rows, tested.bounds, strict=True)
        )

    def certified(self, tested: Outcome, delta: float, rows: Examples) -> OperatingPoint:
        """The fastest accepted point, with its certificate."""
        assert self.cascade.spec is not None
        here = self.cascade.stages[-1].engine
        certificate = Certificate(
            promises=self.kept(tested),
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
        target = ", ".join(f"{one.name} {one.level:g}" for one in self.promises)
        chosen = self.path[tested.accepted - 1]
        expected = expected_of(chosen, _measure(self.promises), self.cost, target, self.notices)
        return OperatingPoint(chosen.thresholds, expected, certificate)

    def advice(self, delta: float) -> str:
        """What would help, judged by the tune rows at the safest point."""
        needed = []
        for promise in self.promises:
            seen = point_losses(self.answers, promise, self.path[0].thresholds)
            expected = float(seen.mean()) if len(seen) else promise.risk
            needed.append((promise, rows_needed(promise, expected, delta / len(self.promises))))
        hopeless = [promise.words for promise, count in needed if count is None]
        if hopeless:
            return f"By the tune rows no number of rows would do for {', '.join(hopeless)}: ask for less."
        most = max(count for _, count in needed if count is not None)
        return f"By the tune rows about {most:,} rows would do: give as many new ones, or ask for less."


def _plan(
    cascade: Cascade,
    rows: Split,
    promises: Sequence[Promise],
    delta: float,
    cost: Cost,
    score: ScoreChoice | None,
) -> _Plan:
    cached, notices = cache(cascade, rows.tune), rows.notices
    if cascade.uncertified is not None:  # another engine: its labels are checked, its temperatures its own
        notices += refuse_changed(cascade.stages, rows.tune.texts, cached.logits)
        cascade = recalibrated(cascade, cached)
    costs = costs_of(cascade, cached, cost)
    probabilities = scaled_probabilities(cascade, cached.logits)
    labels = probabilities.argmax(axis=2)
    right = labels[-1] if _measure(promises) == "agreement" else cached.labels
    losses = (labels != right).astype(np.float64)
    made = scored_rows(cascade, probabilities, losses, costs, score)
    answers = Answers(made.confidences, labels, cached.labels, cascade.label_names)
    curve = operating_path(answers, promises, costs.rows, delta, alone=costs.alone)
    path = tuple(
        measured_at(tuple(point.tolist()), made.confidences, losses, costs.rows, alone=costs.alone)
        for point in curve.thresholds
    )
    cascade, notices = replace(cascade, score=made.score), (*notices, *made.notices)
    return _Plan(cascade, cached, answers, tuple(promises), path, cost, notices)


def _read_once(plan: _Plan, rows: Examples, delta: float) -> Outcome:
    """Run the stages on the certify rows and test the path."""
    truth = None if rows.labels is None else rows.label_ids(plan.cascade.label_names)
    answers = stage_answers(plan.cascade, rows.texts, truth)
    return certify(answers, np.array([one.thresholds for one in plan.path]), plan.promises, delta=delta)


def _measure(promises: Sequence[Promise]) -> Literal["accuracy", "agreement"]:
    return "agreement" if all(one.name == "min_agreement" for one in promises) else "accuracy"


def _delta(promises: Sequence[Promise], confidence_level: float) -> float:
    if not 0.5 <= confidence_level < 1:
        raise CascadeError(
            f"a confidence level lies between 0.5 and 1 (such as 0.95), not at {confidence_level}"
        )
    if not promises or len({(one.name, one.label) for one in promises}) < len(promises):
        given = ", ".join(one.words for one in promises) or "none"
        raise CascadeError(f"a guarantee is one promise or more, each once; given: {given}")
    return round(1 - confidence_level, 12)


def _say_rows_needed(promises: Sequence[Promise], delta: float, rows: Examples) -> None:
    """Say how many rows the promises need; refuse where even rows without any loss would be too few."""
    share = delta / len(promises)
    for promise in promises:
        count = len(rows)
        if promise.label is not None and rows.labels is not None:
            count = sum(str(label) == promise.label for label in rows.labels)
        least, likely = rows_needed(promise, 0.0, share), rows_needed(promise, promise.risk / 2, share)
        said = (
            f"{promise.words}, delta {share:g}: {least:,} rows if nothing is lost, {likely:,} at half of it"
        )
        log.info("%s; given: %s", said, f"{count:,}")
        if least is None or count < least:
            raise CascadeError(
                f"{promise.words} at a confidence level of {1 - delta:g} needs {least:,} certify rows or "
                f"more even if nothing is lost, and {likely:,} if half of it is; given: {count:,}. Give more "
                "rows, or ask for less."
            )
