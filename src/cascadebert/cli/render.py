"""Everything that verbs print: text for people, one line of JSON for programs."""

from __future__ import annotations

import json as json_format
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cascadebert.evaluation.benchmark import BenchmarkResult
    from cascadebert.evaluation.drift_test import DriftResult
    from cascadebert.inference.cascade import Cascade
    from cascadebert.persistence.schema import CascadeSpec, MeasuredTiming
    from cascadebert.thresholds.certificate import Certificate
    from cascadebert.thresholds.operating_point import OperatingPoint, TuningMetrics
    from cascadebert.training.distillation.distill import DistilledModels
    from cascadebert.tuning.tune import TuningResult
    from cascadebert.types import Interval, Report

UNTRAINED_LOSS = 0.9  # a held-out loss above it means that distillation failed


def console() -> Console:
    """Console of standard output."""
    return Console(highlight=False, soft_wrap=True, markup=False)


def stderr() -> Console:
    """Console of errors, notices and logs."""
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def configure_logging(*, timestamps: bool = False) -> None:
    """Send the package's log to standard error; with timestamps as plain lines, for log collectors."""
    handler: logging.Handler = RichHandler(
        console=stderr(), show_time=False, show_level=False, show_path=False
    )
    if timestamps:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("cascadebert")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def print_json(values: Mapping[str, Any], enabled: bool) -> None:
    """Print one line of JSON if enabled."""
    if enabled:
        sys.stdout.write(json_format.dumps(values) + "\n")
        sys.stdout.flush()


def print_notices(notices: Iterable[str]) -> None:
    """Print notes on standard error."""
    for notice in notices:
        stderr().print(Text.assemble(("note: ", "yellow"), notice))


def print_error(message: str) -> None:
    """Print an error on standard error."""
    stderr().print(Text.assemble(("error: ", "red"), message))


def percent(fraction: float) -> str:
    """Format a fraction.

    >>> percent(0.12345)
    '12.3 %'
    """
    return f"{100 * fraction:.1f} %"


def percentages(fractions: Iterable[float]) -> str:
    """Format fractions.

    >>> percentages((0.25, 0.75))
    '25.0 % / 75.0 %'
    """
    return " / ".join(map(percent, fractions))


def threshold_list(thresholds: Iterable[float]) -> str:
    return ", ".join(f"{threshold:.4f}" for threshold in thresholds) or "none"


def _optional(value: float | None, form: str) -> str:
    return "n/a" if value is None else form.format(value)


def _times(speedup: float | None) -> str:
    return _optional(speedup, "{:.2f}x")


def _points(interval: Interval) -> str:
    return f"{100 * interval.value:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def _print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def print_report(report: Report) -> None:
    """Print the quality of each stage alone and of the cascade."""
    rows = [
        (f"stage {i} alone", percent(stage.accuracy), f"{stage.ece:.3f}", _optional(stage.dis, "{:.3f}"), "")
        for i, stage in enumerate(report.stages, start=1)
    ]
    rows.append(
        ("cascade", percent(report.accuracy), f"{report.ece:.3f}", "", percentages(report.exit_rates))
    )
    _print_table(("", "accuracy", "ECE", "DIS", "exits by stage"), rows)
    console().print(
        f"{report.n:,} examples; macro F1 {report.macro_f1:.3f}; layers speed-up "
        f"{_times(report.layers_speedup)}, FLOPs speed-up {_times(report.flops_speedup)}"
    )


def print_benchmark(result: BenchmarkResult) -> None:
    """Print throughput and accuracy of everything that was timed, and the speed-up."""
    rows = []
    for timed in (result.cascade, result.last_stage, *result.others):
        rows.append(
            (
                f"{timed.name} (the last)" if timed is result.last_stage else timed.name,
                f"{timed.examples_per_second:,.0f}",
                f"{timed.range[0]:,.0f} - {timed.range[1]:,.0f}",
                "n/a" if timed.accuracy is None else percent(timed.accuracy),
                "" if timed.accuracy_drop is None else _points(timed.accuracy_drop),
                percent(timed.agreement),
            )
        )
    _print_table(("", "texts/s", "range", "accuracy", "drop in points (95 %)", "agreement"), rows)
    low, high = result.range
    console().print(
        f"{result.n:,} examples, {result.repeats} interleaved runs of each. Speed-up over the last stage: "
        f"{_times(result.measured_speedup)} ({low:.2f} - {high:.2f}) measured, "
        f"{_times(result.expected_speedup)} expected; exits by stage: {percentages(result.exit_rates)}"
    )
    console().print(
        f"routing overhead {percent(result.routing_overhead)}; "
        f"peak memory {_optional(result.peak_memory_mb, '{:,.0f} MB')}"
    )


def print_drift(result: DriftResult) -> None:
    """Print the changes, the verdict and its reasons."""
    rows = []
    for number, stage in enumerate(result.stages, start=1):
        rate, means, distance = stage.exit_rate, stage.mean_confidences, stage.distance
        rates = percent(rate.reference.value), percent(rate.new.value), _points(rate.change)
        rows.append((f"stage {number}: exit rate", *rates))
        if distance is not None:
            limits = f"{100 * distance.low:.1f} to {100 * distance.high:.1f}"
            change = f"distance {100 * distance.value:.1f} ({limits})"
            rows.append((f"stage {number}: mean confidence", f"{means[0]:.3f}", f"{means[1]:.3f}", change))
    both = result.agreement
    rates = percent(both.reference.value), percent(both.new.value), _points(both.change)
    rows.append(("agreement with last stage", *rates))
    change = f"change in points ({100 * result.confidence_level:g} %)"
    _print_table(("", f"{result.n_reference:,} reference", f"{result.n_new:,} new", change), rows)
    for sentence in (result.headline, *result.reasons):
        console().print(sentence)
    if result.verdict not in ("yes", "no"):
        print_notices(["no verdict; the exit code is 0"])


def print_spec(spec: CascadeSpec, *, checked: bool) -> None:
    """Print the stages, labels and operating point of a saved cascade."""
    thresholds = [f"{threshold:.4f}" for threshold in spec.operating_point.thresholds]
    rows = [
        (str(i), stage.name, str(stage.layers), str(stage.hidden), f"{stage.temperature:.3f}", threshold)
        for i, (stage, threshold) in enumerate(
            zip(spec.stages, [*thresholds, "always"], strict=True), start=1
        )
    ]
    _print_table(("stage", "made from", "layers", "width", "temperature", "exits above"), rows)
    console().print(f"labels: {', '.join(spec.label_names)}")
    _print_operating_point(spec.operating_point)
    if checked:
        console().print("checked: every file of every stage is unchanged")


def print_new_cascade(cascade: Cascade, output: Path, *, seconds: float, json: bool) -> None:
    """Print what `fit` or `assemble` made, with its quality on the tuning set."""
    spec, metrics = cascade.spec, cascade.operating_point.metrics
    assert spec is not None and metrics is not None
    if spec.measured is not None:
        print_report(spec.measured)
    _print_operating_point(cascade.operating_point, spec.timing)
    console().print(f"Saved in {output}. Next: cascadebert evaluate {output} TEST_FILE")
    stages = [
        {"name": stage.name, "layers": stage.layers, "hidden": stage.hidden, "temperature": stage.temperature}
        for stage in spec.stages
    ]
    if spec.measured is not None:
        for stage, report in zip(stages, spec.measured.stages, strict=True):
            stage.update(asdict(report))
    values = {
        "output": str(output),
        **_tuning_values(cascade.operating_point, spec.measured, spec.timing),
        "stages": stages,
        "seconds": round(seconds, 1),
    }
    print_json(values, json)


def print_tuning(result: TuningResult, cost_unit: str, *, json: bool) -> None:
    """Print new thresholds, with their quality on the tuning set and their certificate."""
    _print_operating_point(result.point, result.timing)
    certificate = result.point.certificate
    values = {
        "feasible": True,
        **_tuning_values(result.point, result.report, result.timing),
        "cost_unit": cost_unit,
        "nearest": None,
        "certificate": None if certificate is None else _certificate_values(certificate),
    }
    print_json(values, json)


def _print_operating_point(point: OperatingPoint, timing: MeasuredTiming | None = None) -> None:
    metrics, certificate = point.metrics, point.certificate
    if metrics is not None:
        print_notices(metrics.notices)
        console().print(_metrics_line(metrics))
    if timing is not None:
        console().print(
            f"Expected wall-clock speed-up here: {_times(timing.expected_speedup)} ({timing.machine})."
        )
    if certificate is not None:
        _print_certificate(certificate)


def _metrics_line(metrics: TuningMetrics) -> str:
    validated = ""
    if metrics.cross_validated is not None:
        validated = f" Cross-validated over ten folds: {percent(metrics.cross_validated)}."
    return (
        f"On the {metrics.n:,} examples of the tuning set: {metrics.metric} {percent(metrics.value)} "
        f"(last stage alone {percent(metrics.last_stage)}), {_times(metrics.speedup)} by {metrics.cost_unit}."
        f"{validated}"
    )


def _print_certificate(certificate: Certificate) -> None:
    for result in certificate.guarantees:
        console().print(
            f"Certified at {percent(1 - certificate.delta)} confidence: {result.guarantee.description} on "
            f"new data like these ({result.n:,} examples, used once; their own bound is {result.bound:.4f})."
        )
    first, last = certificate.points[0].speedup, certificate.points[-1].speedup
    console().print(
        f"It holds at {len(certificate.points)} operating points from {_times(first)} to {_times(last)}, for "
        f"{certificate.engine} in {certificate.precision} on {certificate.device}."
    )


def _tuning_values(
    point: OperatingPoint, report: Report | None, timing: MeasuredTiming | None
) -> dict[str, Any]:
    metrics = point.metrics
    assert metrics is not None
    return {
        "thresholds": point.thresholds,
        "n": metrics.n,
        "metric": metrics.metric,
        "value": metrics.value,
        "cross_validated": metrics.cross_validated,
        "exit_rates": metrics.exit_rates,
        "accuracy": report.accuracy if report else None,
        "layers_speedup": report.layers_speedup if report else None,
        "flops_speedup": report.flops_speedup if report else None,
        "expected_speedup": timing.expected_speedup if timing else None,
        "notices": metrics.notices,
    }


def _certificate_values(certificate: Certificate) -> dict[str, Any]:
    """The certificate with its first guarantee at the top level and the others in "also"."""
    results = [
        {**asdict(result.guarantee), "guarantee": result.guarantee.name, "n": result.n, "bound": result.bound}
        for result in certificate.guarantees
    ]
    return {
        **results[0],
        "also": results[1:],
        "delta": certificate.delta,
        "points": [asdict(point) for point in certificate.points],
        "engine": certificate.engine,
        "precision": certificate.precision,
    }


def print_distilled_models(models: DistilledModels, *, seconds: float, json: bool) -> None:
    """Print the size of each model and the fraction of the large model's hidden states it explains."""
    rows, failed = [], []
    for model in models.students:
        loss = model.held_out_loss
        explained = "not trained" if loss is None else percent(1 - loss)
        size = f"{model.layers} x {model.hidden}"
        rows.append((str(model.path), size, f"{model.parameters / 1e6:.1f} M", explained))
        if loss is not None and loss > UNTRAINED_LOSS:
            failed.append(str(model.path))
    _print_table(("model", "layers x width", "parameters", "of the large model's hidden states"), rows)
    if failed:
        print_notices([f"{', '.join(failed)}: hardly anything was learned. Lower --learning-rate."])
    if models.complete:
        rate = _optional(models.tokens_per_second, ", {:,.0f} per second")
        console().print(f"{models.tokens / 1e6:.1f} M tokens{rate}; {percent(models.padding)} padding.")
    else:
        print_notices(["truncated models, NOT complete ones. Give --corpus to distill them."])
    students = [{**asdict(model), "path": str(model.path)} for model in models.students]
    print_json({**asdict(models), "students": students, "seconds": round(seconds, 1)}, json)


def print_comparisons(comparisons: Iterable[Mapping[str, Any]], output: Path) -> None:
    """Print the cascade and the best early exit at each speed-up of the paper's experiment."""

    def signed(fraction: float | None) -> str:
        return "n/a" if fraction is None else f"{100 * fraction:+.1f} %"

    rows = [
        (
            f"{row['target']:g}x {row['basis']}",
            row["cascade"],
            row["best_early_exit"],
            signed(row["relative_improvement"]),
            f"{signed(row['ci_low'])} to {signed(row['ci_high'])}",
        )
        for row in comparisons
    ]
    _print_table(("at", "cascade", "best early exit", "relative improvement", "95 % interval"), rows)
    console().print(f"Saved in {output}: runs.jsonl, summary.json, analyses.json and plots.")
