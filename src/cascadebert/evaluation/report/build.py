"""Builds the report of a saved cascade: runs, times and evaluates it on examples it was not made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import DataSource, Examples
from cascadebert.data.labels import same_labels, shorten, without_prefix
from cascadebert.errors import CascadeError
from cascadebert.evaluation.cost_model import measure_latency
from cascadebert.evaluation.evaluate import leave_out, load_for, report_on_logits
from cascadebert.evaluation.report.verdict import ReportInputs, Verdict, WallClock, compute_verdict
from cascadebert.inference.batch_size import with_tuned_batch_sizes
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.stage import Stage
from cascadebert.persistence.folder import read_used_rows
from cascadebert.thresholds.operating_point import OperatingPoint
from cascadebert.timing import interleaved
from cascadebert.types import Ints, Report, Texts

REPEATS = 3
TIMED_ROWS = 4096


@dataclass(frozen=True)
class CascadeReport:
    """A verdict on a cascade, and the examples behind it."""

    cascade: Cascade
    verdict: Verdict
    report: Report  # of the cascade on the same examples
    overlap: dict[str, int]  # examples used to train, tune and certify the cascade; they are left out
    notices: tuple[str, ...]
    source: str  # of the examples
    data_sha256: str  # fingerprint of the examples that are left


def build_report(
    cascade: Cascade,
    data: DataSource,
    *,
    baseline: Cascade | None = None,
    columns: Columns | None = None,
    repeats: int = REPEATS,
) -> CascadeReport:
    """Decide whether a saved cascade pays off on labeled data, less the examples that it was made from.

    Accuracy, calibration and errors are measured on all remaining examples; wall-clock times on up to 4,096
    of them, spread over the data, in `repeats` interleaved runs after one warm-up. `baseline` is compared
    with it: another saved cascade, or a classifier as a cascade of one stage (see `opened_baseline`).

    Raises DataError if no example is left, or a label is missing or unknown, and CascadeError if the
    baseline's labels differ.
    """
    if baseline is not None and not same_labels(baseline.label_names, cascade.label_names):
        raise CascadeError(
            f"the baseline has other labels than the cascade: {shorten(baseline.label_names)}; expected "
            f"{shorten(cascade.label_names)}."
        )
    examples = load_for(cascade, data, columns=columns)
    unused, overlap, notices = unused_examples(examples, cascade, baseline)
    texts, labels = unused.texts, unused.label_ids(cascade.label_names)
    encoded, logits = cascade.encode(texts), cascade.stage_logits(texts)
    inputs = ReportInputs(
        logits=logits,
        temperatures=cascade.temperatures,
        thresholds=cascade.operating_point.thresholds,
        score=cascade.score,
        labels=labels,
        label_names=cascade.label_names,
        lengths=encoded[-1].lengths,
        seconds=measure_latency(cascade.stages, texts, encoded).costs(encoded),
        clock=_clock(cascade, baseline, texts, repeats),
        baseline=None if baseline is None else _predict(baseline, cascade, texts),
        allowed_drop=allowed_drop(cascade.operating_point),
    )
    return CascadeReport(
        cascade=cascade,
        verdict=compute_verdict(inputs),
        report=report_on_logits(cascade, logits, encoded, labels),
        overlap=overlap,
        notices=(*notices, *_baseline_notices(cascade, baseline)),
        source=unused.source,
        data_sha256=unused.sha256(),
    )


def unused_examples(
    examples: Examples, *cascades: Cascade | None
) -> tuple[Examples, dict[str, int], tuple[str, ...]]:
    """Examples that none of the cascades was made from or reserves for certification.

    Also returns how many of the examples the first cascade used, by purpose, and notices. Raises DataError if
    no example is left.
    """
    all_used = [read_used_rows(cascade.path) for cascade in cascades if cascade and cascade.path]
    if not all_used:
        return examples, {}, ()
    hashes = [used.all for used in all_used]
    reason = "used to train, tune or certify a cascade, or reserved for that"
    unused, notices = leave_out(examples, np.concatenate(hashes), reason)
    return unused, all_used[0].count_overlap(examples.hashes()), notices


def allowed_drop(point: OperatingPoint) -> float | None:
    """The accuracy drop that a guarantee, or else the target, allows; None if neither limits it."""
    for guarantee in point.guarantees:
        if guarantee.name == "max_accuracy_drop":
            return guarantee.level
    target = None if point.metrics is None else point.metrics.target  # None with a certificate
    return None if target is None else target.max_accuracy_drop


def _clock(cascade: Cascade, rival: Cascade | None, texts: Texts, repeats: int) -> WallClock:
    spread = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), TIMED_ROWS)).astype(np.int64))
    sample = [texts[i] for i in spread.tolist()]
    cascade = with_tuned_batch_sizes(cascade, measure=True)
    predictors: list[Cascade | Stage] = [cascade, *cascade.stages]
    if rival is not None:
        predictors.append(with_tuned_batch_sizes(rival, measure=True))
    runs = [partial(predictor.predict, sample) for predictor in predictors]
    seconds = np.array(interleaved(runs, repeats=repeats))
    num_stages = len(cascade.stages)
    baseline = None if rival is None else seconds[-1]
    return WallClock(len(sample), seconds[0], seconds[1 : num_stages + 1], baseline)


def _predict(rival: Cascade, cascade: Cascade, texts: Texts) -> tuple[str, Ints]:
    """Name of the baseline, and its (n,) predictions as label ids of the cascade."""
    kind, name = "classifier", rival.stages[-1].name
    if rival.path is not None:
        kind, name = "cascade", rival.path.name
    own = without_prefix(cascade.label_names)
    ids = np.array([own.index(label) for label in without_prefix(rival.label_names)], dtype=np.int64)
    return f"the baseline {kind} ({name})", ids[rival.predict(texts).label_ids]


def _baseline_notices(cascade: Cascade, rival: Cascade | None) -> tuple[str, ...]:
    if rival is None:
        return ()
    engines = (predictor.stages[-1].engine for predictor in (cascade, rival))
    own, of_rival = (f"{engine.name} {engine.precision} on {engine.device}" for engine in engines)
    notices = [] if own == of_rival else [f"the cascade ran on {own}, the baseline on {of_rival}."]
    if rival.path is None:
        notices.append("the training data of the baseline classifier is not known here.")
    return tuple(notices)
