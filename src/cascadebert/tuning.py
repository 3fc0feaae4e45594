"""Pick an operating point for a cascade on rows that its stages were not trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cascadebert.batching import Rows
from cascadebert.calibration import fit_temperature
from cascadebert.cascade import Cascade
from cascadebert.confidence import Score, histogram
from cascadebert.costs import Costs, Measured, measure, row_costs
from cascadebert.data import Examples, load_examples, shorten
from cascadebert.environment import machine
from cascadebert.errors import DataError, FolderError
from cascadebert.evaluation import report, scaled_probabilities
from cascadebert.fidelity import refuse_changed
from cascadebert.folder import UsedRows, update_folder, used_rows
from cascadebert.scoring import Scored, choose_score, scored
from cascadebert.spec import StageEntry, Timing, TunedOn
from cascadebert.tasks import Columns
from cascadebert.thresholds import (
    InfeasibleTarget,
    Selection,
    cross_validated,
    exit_stages,
    select_thresholds,
    speedup,
)
from cascadebert.types import (
    Cost,
    Expected,
    Floats,
    Histogram,
    Ints,
    Logits,
    OperatingPoint,
    Report,
    ScoreChoice,
    Target,
)

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Tuned:
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
    timing: Timing
    score: Score
    calibration: Histogram


@dataclass(frozen=True)
class Cached:
    """What every decision on tune rows needs: no model runs after this.

    Attributes:
        logits: (num_stages, n, num_labels), before scaling.
        encoded: each stage's tokens.
        labels: (n,) label ids, or None.
        seconds: what a row takes on this machine.
    """

    logits: Logits
    encoded: list[Rows]
    labels: Ints | None
    seconds: Measured


def tune(
    cascade: Cascade,
    data: str | Path | datasets.Dataset | Examples,
    *,
    target: Target,
    cost: Cost = "flops",
    columns: Columns | None = None,
) -> OperatingPoint:
    """The thresholds that meet a target on the given rows.

    Args:
        cascade: its stages and temperatures stay as they are.
        data: rows like those the cascade will meet; labels are needed for accuracy targets, and without
            them a speed-up is bought with the least disagreement with the last stage.
        target: what must hold.
        cost: what speed-up is counted in.
        columns: names of the columns, where not the usual ones.

    Raises:
        InfeasibleTarget: if no thresholds meet it; names the nearest.
        DataError: if rows or labels cannot be used.
    """
    examples, notices = _tune_rows(cascade, data, target, columns)
    return pick(cascade, cache(cascade, examples), target, cost, notices).point


def tune_folder(
    path: Path,
    data: str | Path | Examples,
    *,
    target: Target,
    cost: Cost = "flops",
    columns: Columns | None = None,
    score: ScoreChoice | None = None,
    engine: str = "auto",
    precision: str = "auto",
) -> Tuned:
    """Pick a new operating point for a saved cascade and store it there.

    Args:
        path: the folder; unchanged if the target cannot be met.
        data: as for `tune`.
        target: what must hold.
        cost: what speed-up is counted in.
        columns: names of the columns, where not the usual ones.
        score: what to compare with thresholds; "auto" picks one; None keeps the folder's.
        engine: to pick them on: another than before, or "auto" for the same.
        precision: likewise.
    """
    cascade = own_cascade(path, engine, precision)
    examples, notices = _tune_rows(cascade, data, target, columns)
    cached = cache(cascade, examples)
    if cascade.uncertified is not None:  # another engine: its labels are checked, its temperatures its own
        notices += refuse_changed(cascade.stages, examples.texts, cached.logits)
        cascade = recalibrated(cascade, cached)
    tuned = pick(cascade, cached, target, cost, notices, score=score)
    used = used_rows(path)
    store(path, cascade, tuned, examples, replace(used, tune=np.union1d(used.tune, examples.hashes())))
    return tuned


def own_cascade(path: Path, engine: str, precision: str) -> Cascade:
    """A saved cascade to be changed where it lies.

    Raises:
        FolderError: if there is no such folder.
    """
    if not path.is_dir():
        raise FolderError(f"{path}: no such folder. To tune a repository of the Hub, save it here first.")
    return Cascade.from_pretrained(path, engine=engine, precision=precision)


def store(path: Path, cascade: Cascade, tuned: Tuned, examples: Examples, rows: UsedRows) -> None:
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
            "stages": scaled_entries(cascade),
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


def scaled_entries(cascade: Cascade) -> tuple[StageEntry, ...]:
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
    return untouched(cascade, examples)


def needs_labels(target: Target) -> bool:
    """Whether a target speaks of accuracy."""
    return target.name in ("max_accuracy_drop", "min_accuracy")


def untouched(cascade: Cascade, examples: Examples) -> tuple[Examples, tuple[str, ...]]:
    """The rows that thresholds may be picked on.

    Confidence is too high on rows that the stages were trained on, and rows kept for guarantees stay unread.

    Raises:
        DataError: if none is left.
    """
    if cascade.path is None:
        return examples, ()
    used = used_rows(cascade.path)
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


def cache(cascade: Cascade, examples: Examples) -> Cached:
    """Run every stage on every row, once, and time some of them."""
    labels = None if examples.labels is None else examples.label_ids(cascade.label_names)
    encoded = cascade.encode(examples.texts)
    seconds = measure(cascade.stages, examples.texts, encoded)
    return Cached(cascade.stage_logits(examples.texts), encoded, labels, seconds)


def pick(
    cascade: Cascade,
    cached: Cached,
    target: Target,
    cost: Cost,
    notices: tuple[str, ...] = (),
    *,
    score: ScoreChoice | None = None,
) -> Tuned:
    """Choose thresholds on cached logits.

    Args:
        cascade: for its stages and temperatures.
        cached: from `cache`.
        target: what must hold.
        cost: what speed-up is counted in.
        notices: said before those of the choice itself.
        score: what to compare with thresholds; "auto" picks one; None keeps the cascade's.

    Raises:
        InfeasibleTarget: if no thresholds meet the target.
    """
    probabilities = scaled_probabilities(cascade, cached.logits)
    measure, losses = _losses(probabilities, cached.labels, target)
    costs = costs_of(cascade, cached, cost)
    made = scored_rows(cascade, probabilities, losses, costs, score)
    cascade, confidences = replace(cascade, score=made.score), made.confidences
    try:
        choice = select_thresholds(confidences, losses, costs.rows, target=target, alone=costs.alone)
    except InfeasibleTarget as refused:
        raise InfeasibleTarget(target, refused.nearest, unit=f"by {cost}") from None
    notices = (*notices, *made.notices, *_absent(cascade, cached.labels))
    expected = expected_of(choice, measure, cost, f"{target.name} {target.value:g}", notices)
    lost = cross_validated(confidences, losses, costs.rows, target=target, alone=costs.alone)
    expected = replace(expected, cross_validated=None if lost is None else 1 - lost)
    return at(cascade, cached, OperatingPoint(choice.thresholds, expected))


def scored_rows(
    cascade: Cascade, probabilities: Floats, losses: Floats, costs: Costs, score: ScoreChoice | None
) -> Scored:
    """The score that was asked for, with the confidences of tune rows to pick thresholds on."""
    if score is None:
        return Scored(cascade.score, cascade.score.all(probabilities))
    if score == "auto":
        return choose_score(probabilities, losses, costs.rows, alone=costs.alone)
    return scored(score, probabilities)


def costs_of(cascade: Cascade, cached: Cached, cost: Cost) -> Costs:
    """What the cached rows cost at each stage, in the given unit."""
    if cost == "measured":
        return cached.seconds.costs(cached.encoded)
    return row_costs(cascade.stages, cached.encoded, cost)


def expected_of(
    choice: Selection,
    measure: Literal["accuracy", "agreement"],
    cost: Cost,
    target: str,
    notices: tuple[str, ...],
) -> Expected:
    """What a choice of thresholds gave on the tune rows."""
    return Expected(
        n=choice.n,
        measure=measure,
        value=1 - choice.loss,
        last_stage=1 - choice.last_loss,
        exit_rates=choice.exit_rates,
        cost=cost,
        speedup=choice.speedup,
        target=target,
        notices=(*notices, *choice.notices),
    )


def at(cascade: Cascade, cached: Cached, point: OperatingPoint) -> Tuned:
    """An operating point with the report and the timing of the cached rows."""
    done = None
    if cached.labels is not None:
        done = report(cascade.with_operating_point(point), cached.logits, cached.encoded, cached.labels)
    clock = cached.seconds.costs(cached.encoded)
    confidences = cascade.score.all(scaled_probabilities(cascade, cached.logits))
    exits = exit_stages(confidences, point.thresholds)
    timing = Timing(
        machine=machine(),
        stages=cached.seconds.stages,
        tokenising=cached.seconds.tokenising,
        expected_speedup=round(speedup(exits, clock.rows, clock.alone), 4),
    )
    return Tuned(point, done, timing, cascade.score, histogram(confidences[0]))


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


def recalibrated(cascade: Cascade, cached: Cached) -> Cascade:
    """The cascade with temperatures fitted on labelled tune rows; without labels it stays as it is."""
    if cached.labels is None:
        return cascade
    labels = cached.labels
    return replace(cascade, temperatures=tuple(fit_temperature(one, labels) for one in cached.logits))
