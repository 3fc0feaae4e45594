"""Judge a saved cascade on rows that had no say in making it: run, time, weigh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.environment import machine, versions
from cascadebert.errors import CascadeError, DataError
from cascadebert.evaluation.cost_model import measure_latency
from cascadebert.evaluation.evaluate import report_on_logits
from cascadebert.evaluation.report.comparison import WallClock
from cascadebert.evaluation.report.verdict import ReportInputs, Verdict, reach_verdict
from cascadebert.inference.batch_size import with_tuned_batch_sizes
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.engines.base import ENGINE_FILE
from cascadebert.inference.stage import Stage
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.persistence.folder import SPEC_FILE, read_used_rows
from cascadebert.thresholds.operating_point import OperatingPoint
from cascadebert.timing import interleaved
from cascadebert.types import Ints, Report, Texts

if TYPE_CHECKING:
    import datasets

REPEATS = 3
TIMED_ROWS = 4096


@dataclass(frozen=True)
class CascadeReport:
    """A verdict, and where it comes from.

    Attributes:
        verdict: on the rows that are left.
        report: of the cascade on the same rows.
        seen: how many of the given rows were used to train, tune and certify; they are left out.
        notices: what must be heard about it, one sentence each.
        uncertified: why what was measured or promised of the thresholds does not hold here, if so.
        source: of the rows.
        data_sha256: fingerprint of the rows that are left.
        name: of the cascade's folder.
        label_names: in the order of their ids.
        stages: name, engine and precision of each stage.
        thresholds: (num_stages - 1,).
        machine: that ran them, in words.
        versions: of the libraries.
    """

    verdict: Verdict
    report: Report
    seen: dict[str, int]
    notices: tuple[str, ...]
    uncertified_reason: str | None
    source: str
    data_sha256: str
    name: str
    label_names: tuple[str, ...]
    stages: tuple[str, ...]
    thresholds: tuple[float, ...]
    machine: str
    versions: dict[str, str]


def build_report(
    cascade: Cascade,
    data: str | Path | datasets.Dataset | Examples,
    *,
    baseline: str | Path | None = None,
    columns: Columns | None = None,
    repeats: int = REPEATS,
) -> CascadeReport:
    """Whether a saved cascade is worth it on the given rows, as far as these had no say in making it.

    Accuracies, calibration and errors are those of all rows that are left; times those of up to 4,096 of
    them, spread over the file, everything in turn.

    Args:
        cascade: from a folder.
        data: labelled rows.
        baseline: another saved cascade or one fine-tuned classifier, to be scored and timed beside it.
        columns: names of the columns, where not the usual ones.
        repeats: timed runs of each, after one warm-up.

    Raises:
        DataError: if no row is left, or a label is missing or unknown.
        CascadeError: if the labels of the other one differ.
    """
    rival = None if baseline is None else load_baseline(baseline, cascade)
    examples = load_examples(data, columns=columns, split="validation")
    examples.label_ids(cascade.label_names)  # an unknown label is said by its row in the file
    fresh, seen, notices = unused_examples(examples, cascade, rival)
    labels = fresh.label_ids(cascade.label_names)
    encoded, logits = cascade.encode(fresh.texts), cascade.stage_logits(fresh.texts)
    costs = measure_latency(cascade.stages, fresh.texts, encoded).costs(encoded)
    verdict = reach_verdict(
        ReportInputs(
            logits=logits,
            temperatures=cascade.temperatures,
            thresholds=cascade.operating_point.thresholds,
            score=cascade.score,
            labels=labels,
            label_names=cascade.label_names,
            lengths=encoded[-1].lengths,
            seconds=costs.rows,
            alone=costs.last_stage_cost,
            clock=_clock(cascade, rival, fresh.texts, repeats),
            rival=None if rival is None else (_name(rival), _answers(rival, cascade, fresh.texts)),
            allowed_drop=allowed_drop(cascade.operating_point),
        )
    )
    return CascadeReport(
        verdict=verdict,
        report=report_on_logits(cascade, logits, encoded, labels),
        seen=seen,
        notices=(*notices, *_unlike(cascade, rival)),
        uncertified_reason=cascade.uncertified_reason,
        source=fresh.source,
        data_sha256=fresh.sha256(),
        name="cascade" if cascade.path is None else cascade.path.name,
        label_names=cascade.label_names,
        stages=tuple(f"{stage.name} ({_engine(stage)})" for stage in cascade.stages),
        thresholds=cascade.operating_point.thresholds,
        machine=machine(),
        versions=versions(),
    )


def load_baseline(path: str | Path, cascade: Cascade) -> Cascade:
    """Another saved cascade, or a fine-tuned classifier as a cascade of one stage.

    A classifier runs in the cascade's engine and precision where its folder has what that needs, else in
    torch, and reads as many tokens of a row as the cascade's last stage.

    Raises:
        CascadeError: if its labels are not the cascade's.
    """
    folder = resolve_checkpoint(path)
    if (folder / SPEC_FILE).is_file():
        other = Cascade.from_pretrained(folder)
        if sorted(other.label_names) != sorted(cascade.label_names):
            raise CascadeError(
                f"{path} and the cascade do not know the same labels: {', '.join(other.label_names)}; "
                f"expected {', '.join(cascade.label_names)}."
            )
        return other
    last = cascade.stages[-1]
    here = last.engine.name == "torch" or (folder / ENGINE_FILE).is_file()
    engine, precision = (last.engine.name, last.engine.precision) if here else ("torch", "auto")
    stage = Stage.from_pretrained(
        folder, engine=engine, precision=precision, max_length=last.tokenizer.max_length
    )
    return Cascade((stage.with_labels(cascade.label_names),), (1.0,), OperatingPoint(()))


def unused_examples(
    examples: Examples, *cascades: Cascade | None
) -> tuple[Examples, dict[str, int], tuple[str, ...]]:
    """The rows that none of the cascades was trained, tuned or certified on, nor keeps for that.

    Args:
        examples: given rows.
        cascades: the first is the one to judge.

    Returns:
        The rows, how many of the given ones the first was made with by purpose, and what is to be said.

    Raises:
        DataError: if none is left.
    """
    hashes = examples.hashes()
    folders = [one.path for one in cascades if one is not None and one.path is not None]
    every = [read_used_rows(folder) for folder in folders]
    gone = np.zeros(len(examples), dtype=np.bool_)
    for used in every:
        for rows in (used.train, used.tune, used.certify, used.consumed):
            gone |= np.isin(hashes, rows)
    seen = every[0].count_overlap(hashes) if every else {}
    if gone.all():
        raise DataError(
            f"{examples.source}: each of its {len(examples):,} rows was used to make the cascade or is kept "
            "for guarantees, so it says nothing about new ones. Give rows that were not used."
        )
    if not gone.any():
        return examples, seen, ()
    left = f"{gone.sum():,} of {len(examples):,} rows left out"
    notice = f"{left}: trained, tuned or certified on, or kept for that."
    return examples.take(np.flatnonzero(~gone)), seen, (notice,)


def allowed_drop(point: OperatingPoint) -> float | None:
    """The accuracy drop that the target or a guarantee allows, if either is of that kind."""
    if point.certificate is not None:
        drops = [
            r.guarantee.level for r in point.certificate.guarantees if r.guarantee.name == "max_accuracy_drop"
        ]
        return drops[0] if drops else None
    target = None if point.metrics is None else point.metrics.target
    return None if target is None else target.max_accuracy_drop


def _clock(cascade: Cascade, rival: Cascade | None, texts: Texts, repeats: int) -> WallClock:
    spread = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), TIMED_ROWS)).astype(np.int64))
    some = [texts[i] for i in spread.tolist()]
    cascade = with_tuned_batch_sizes(cascade, measure=True)
    runs: list[Callable[[], object]] = [partial(cascade.predict, some)]
    runs += [partial(stage.predict, some) for stage in cascade.stages]
    if rival is not None:
        runs.append(partial(with_tuned_batch_sizes(rival, measure=True).predict, some))
    ours, *stages = np.array(interleaved(runs, repeats=repeats))
    other = stages.pop() if rival is not None else None
    return WallClock(len(some), ours, np.stack(stages), other)


def _name(rival: Cascade) -> str:
    if rival.path is None:
        return f"the other classifier ({rival.stages[-1].name})"
    return f"the other cascade ({rival.path.name})"


def _answers(rival: Cascade, cascade: Cascade, texts: Texts) -> Ints:
    """(n,) its answers by the cascade's label ids."""
    ids = np.array([cascade.label_names.index(name) for name in rival.label_names], dtype=np.int64)
    return ids[rival.predict(texts).label_ids]


def _engine(stage: Stage) -> str:
    return f"{stage.engine.name} {stage.engine.precision} on {stage.engine.device}"


def _unlike(cascade: Cascade, rival: Cascade | None) -> tuple[str, ...]:
    if rival is None:
        return ()
    here, there = _engine(cascade.stages[-1]), _engine(rival.stages[-1])
    said = [] if here == there else [f"the cascade ran in {here}, what it is compared with in {there}."]
    if rival.path is None:
        said.append("what the classifier beside it was trained on is not known here.")
    return tuple(said)
