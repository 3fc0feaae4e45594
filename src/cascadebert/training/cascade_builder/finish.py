"""The last steps of a build: save the chosen cascade, certify it, and measure it on untouched texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.data.columns import ColumnNames
from cascadebert.data.dataset import Examples
from cascadebert.errors import CascadeError
from cascadebert.evaluation.benchmark import benchmark
from cascadebert.evaluation.cost_model import LatencyModel
from cascadebert.evaluation.evaluate import scaled_probabilities
from cascadebert.evaluation.metrics import paired_difference
from cascadebert.evaluation.report.analysis import oracle_routing
from cascadebert.inference.cascade import Cascade
from cascadebert.persistence.folder import read_folder, read_used_rows, update_folder
from cascadebert.persistence.schema import TimedEngine
from cascadebert.thresholds.intervals import binomial_interval
from cascadebert.thresholds.operating_point import Guarantee, Target
from cascadebert.thresholds.select import exit_stages
from cascadebert.training.assemble import BuildConfig, build_cascade
from cascadebert.training.cascade_builder.choose import Made
from cascadebert.training.cascade_builder.parts import EVALUATED, Parts, join
from cascadebert.training.cascade_builder.result import Certification, ChosenCascade, ReportMetrics
from cascadebert.tuning.certify import CertificationFailed, certify_folder

TIMED_TEXTS, TIMED_REPEATS = 512, 3
FIRST_SHARE, LATER_SHARE = 0.8, 0.2  # of the allowed risk, for the first certificate and those after it
MIN_GAIN = 1.1
NO_SAMPLE = " cannot be certified from any number of texts"
CERTIFYING = f"One text in five certifies, {EVALUATED['certify'][1]:,} at most."
SPEEDUP_REASON = "a speed-up is not a statement about predictions: give --min-agreement to have one certified"


def save_cascade(
    stages: Sequence[Made],
    chosen: ChosenCascade,
    target: Target,
    parts: Parts,
    provenance: dict[str, Any],
    columns: ColumnNames | None,
    output: Path,
    timed: tuple[TimedEngine, ...],
) -> Cascade:
    """Write the chosen stages with the thresholds for the chosen level, which replaces the folder."""
    last = stages[-1].stage
    score: Any = chosen.score
    config = BuildConfig(
        target=target if chosen.level is None else Target(min_agreement=chosen.level),
        cost_unit="measured",
        score=score,
        engines=[(last.engine.name, last.engine.precision)],
        max_length=last.tokenizer.max_length,
        overwrite=True,
        columns=columns,
        timed=timed,
    )
    files = [one.files for one in stages]
    return build_cascade(files, parts.tune, config, output, parts.used, provenance, parts.notices)


def certify_cascade(
    path: Path, target: Target, parts: Parts, confidence_level: float, *, earlier: int
) -> Certification:
    """Certify the target of a saved cascade, and store the certificate in its folder.

    `earlier` calls have read these texts for a certificate: this one has a part of the allowed risk that
    leaves all of them together within it. Where no point is certified, but the texts were read, the result
    has a bound.
    """
    uncertified = partial(_uncertified, path, parts, confidence_level, was_read=earlier > 0)
    if target.name == "speedup":
        return uncertified(SPEEDUP_REASON)
    if not 0 < target.value < 1:
        return uncertified(f"{target.option} {target.value:g}{NO_SAMPLE}")
    delta = (1 - confidence_level) * FIRST_SHARE * LATER_SHARE**earlier
    try:
        guarantee = Guarantee(target.name, target.value)  # type: ignore[arg-type]
        tuned = certify_folder(
            path,
            join([parts.tune, parts.certify]),
            guarantees=[guarantee],
            confidence_level=1 - delta,
            cost_unit="measured",
        )
    except CertificationFailed as error:
        return replace(uncertified(f"{error} {CERTIFYING}"), bound=error.results[0].bound)
    except CascadeError as error:
        return uncertified(f"{error} {CERTIFYING}")
    assert tuned.point.certificate is not None
    result = tuned.point.certificate.guarantees[0]
    return Certification(result.guarantee.description, confidence_level, result.n, result.bound, None)


def _uncertified(
    path: Path, parts: Parts, confidence_level: float, reason: str, *, was_read: bool
) -> Certification:
    """The reason why there is no certificate, which is kept in the folder too.

    If an earlier certificate `was_read` from the texts, the folder says that they cannot be used for another.
    """
    spec, used = read_folder(path), read_used_rows(path)
    if was_read:
        used = replace(used, consumed=np.union1d(used.consumed, parts.certify.hashes()))
    metrics = spec.operating_point.metrics
    assert metrics is not None
    metrics = replace(metrics, notices=(*metrics.notices, f"Not certified: {reason}"))
    point = replace(spec.operating_point, metrics=metrics)
    update_folder(path, spec.model_copy(update={"operating_point": point}), used)
    return Certification(None, confidence_level, len(parts.certify), None, reason)


def measure(cascade: Cascade, report: Examples) -> ReportMetrics:
    """The cascade on texts that had no part in making it."""
    logits, encoded = cascade.stage_logits(report.texts), cascade.encode(report.texts)
    probabilities = scaled_probabilities(cascade, logits)
    predictions = probabilities.argmax(axis=2)
    exits = exit_stages(cascade.score.all_stages(probabilities), cascade.operating_point.thresholds)
    answers = predictions[exits, np.arange(len(report))]
    sample = np.linspace(0, len(report) - 1, min(len(report), TIMED_TEXTS)).astype(np.int64)
    timing = benchmark(cascade, report.take(sample), repeats=TIMED_REPEATS)
    keys = tuple(stage.tokenizer.key for stage in cascade.stages)
    costs = LatencyModel(timing.stage_seconds, timing.tokenizing_seconds, keys).costs(encoded)
    oracle = oracle_routing(exits, predictions, predictions[-1], costs)
    agrees = int((answers == predictions[-1]).sum())
    accuracy = classifier_accuracy = drop = None
    if report.labels is not None:
        labels = report.label_ids(cascade.label_names)
        correct, classifier_correct = answers == labels, predictions[-1] == labels
        accuracy, classifier_accuracy = float(correct.mean()), float(classifier_correct.mean())
        drop = paired_difference(classifier_correct, correct)
    return ReportMetrics(
        n=len(report),
        agreement=binomial_interval(agrees, len(report), 0.05),
        accuracy=accuracy,
        classifier_accuracy=classifier_accuracy,
        accuracy_drop=drop,
        oracle_share=oracle.cascade_expected_speedup / oracle.expected_speedup,
        timing=timing,
    )


def verdict(
    chosen: ChosenCascade | None, report: ReportMetrics | None, target: Target
) -> tuple[bool, list[str]]:
    """True if the cascade pays as far as is known, and the reasons.

    It does not if there is none, the target is missed in cross-validation, it is hardly faster than the
    classifier or in no run, or misses a target other than a speed-up significantly on the report texts, if it
    was measured there.
    """
    if chosen is None:
        return False, ["no small model was made that could stand before the classifier."]
    against = list[str]()
    if not chosen.meets_target:
        wanted = f"{target.name.replace('_', ' ')} {target.value:g}"
        against.append(f"no cascade meets {wanted} in cross-validation on the tuning set.")
    if chosen.held_out.speedup < MIN_GAIN:
        against.append(f"the fastest that meets the target is {chosen.held_out.speedup:.2f}x as fast.")
    if report is None:
        return not against, against
    timing = report.timing
    if timing.range[1] <= 1 or timing.measured_speedup < MIN_GAIN:
        low, high = timing.range
        against.append(
            f"it is {timing.measured_speedup:.2f}x ({low:.2f} to {high:.2f}) as fast as the classifier alone."
        )
    against += _missed(report, target)
    if against:
        return False, against
    runs = "every run" if timing.range[0] > 1 else "most runs"
    return True, [f"it meets the target in cross-validation, and was faster than the classifier in {runs}."]


def _missed(report: ReportMetrics, target: Target) -> list[str]:
    """The target's quantity on the report texts, if it misses the target significantly."""
    drop, accuracy = report.accuracy_drop, report.accuracy
    if target.name == "min_agreement" and report.agreement.high < target.value:
        return [f"only {100 * report.agreement.value:.1f} % of the report texts get the same label."]
    if target.name == "max_accuracy_drop" and drop is not None and drop.low > target.value:
        return [f"it loses {100 * drop.value:.1f} points on the report texts."]
    if target.name == "min_accuracy" and accuracy is not None:
        if binomial_interval(round(accuracy * report.n), report.n, 0.05).high < target.value:
            return [f"its accuracy on the report texts is only {100 * accuracy:.1f} %."]
    return []
