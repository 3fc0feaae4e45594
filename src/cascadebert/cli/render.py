"""Everything that verbs print: text for people, one line of JSON for programs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from cascadebert.evaluation.templates import percent, percent_interval, points, times

if TYPE_CHECKING:
    from cascadebert.evaluation.benchmark import BenchmarkResult
    from cascadebert.evaluation.drift_test import DriftResult
    from cascadebert.inference.cascade import Cascade
    from cascadebert.persistence.schema import CascadeSpec, MeasuredTiming
    from cascadebert.thresholds.operating_point import OperatingPoint
    from cascadebert.training.distillation.distill import DistilledModels
    from cascadebert.tuning.tune import TuningResult
    from cascadebert.types import Report

JSON_ENABLED = ContextVar("JSON_ENABLED", default=False)  # `--json` of the running command
FAILED_LOSS = 0.9  # held-out loss above which distillation has learned hardly anything


def console(*, error: bool = False) -> Console:
    """Console of standard output, or of standard error."""
    return Console(stderr=error, highlight=False, soft_wrap=True, markup=False)


def configure_logging(*, timestamps: bool = False) -> None:
    """Send the package's log to standard error; with timestamps in plain lines, for log collectors."""
    console_handler = RichHandler(
        console=console(error=True), show_time=False, show_level=False, show_path=False
    )
    plain_handler = logging.StreamHandler()
    plain_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("cascadebert")
    log.handlers = [plain_handler if timestamps else console_handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def print_json(values: Mapping[str, Any]) -> None:
    """Print one line of JSON, with `--json`."""
    if JSON_ENABLED.get():
        typer.echo(json.dumps(values))


def print_notices(notices: Iterable[str], *, label: str = "note", color: str = "yellow") -> None:
    """Print notices on standard error."""
    for notice in notices:
        console(error=True).print(Text.assemble((f"{label}: ", color), notice))


def percentages(fractions: Iterable[float]) -> str:
    """Format fractions, such as '25.0 % / 75.0 %'."""
    return " / ".join(map(percent, fractions))


def print_table(*rows: Iterable[str]) -> None:
    """Print a table whose first row is its header."""
    header, *body = rows
    table = Table(*header, box=None, header_style="bold", pad_edge=False)
    for row in body:
        table.add_row(*row)
    console().print(table)


def optional(value: float | None, form: str) -> str:
    """Format a value that may be missing.

    >>> optional(2.0, "{:.2f}x"), optional(None, "{:.2f}x")
    ('2.00x', 'n/a')
    """
    return "n/a" if value is None else form.format(value)


def print_report(report: Report) -> None:
    """Print the quality of each stage alone and of the cascade."""
    rows = [("", "accuracy", "ECE", "DIS", "exits by stage")]
    for number, stage in enumerate(report.stages, start=1):
        dis = optional(stage.dis, "{:.3f}")
        rows.append((f"stage {number} alone", percent(stage.accuracy), f"{stage.ece:.3f}", dis, ""))
    rows.append(
        ("cascade", percent(report.accuracy), f"{report.ece:.3f}", "", percentages(report.exit_rates))
    )
    print_table(*rows)
    layers, flops = (optional(value, "{:.2f}x") for value in (report.layers_speedup, report.flops_speedup))
    speedups = f"layers speed-up {layers}, FLOPs speed-up {flops}"
    console().print(f"{report.n:,} examples; macro F1 {report.macro_f1:.3f}; {speedups}")


def print_benchmark(result: BenchmarkResult) -> None:
    """Print throughput, accuracy and agreement of everything that was timed, and the speed-up."""
    rows = [("", "texts/s", "range", "accuracy", "accuracy drop (95 %)", "agreement")]
    for timed in (result.cascade, result.last_stage, *result.others):
        name = f"{timed.name} (the last)" if timed is result.last_stage else timed.name
        limits = f"{timed.range[0]:,.0f} - {timed.range[1]:,.0f}"
        accuracy = "n/a" if timed.accuracy is None else percent(timed.accuracy)
        drop = "" if timed.accuracy_drop is None else points(timed.accuracy_drop)
        rows.append(
            (name, f"{timed.examples_per_second:,.0f}", limits, accuracy, drop, percent(timed.agreement))
        )
    print_table(*rows)
    console().print(
        f"{result.n:,} examples, {result.repeats} interleaved runs of each. Speed-up over the last stage: "
        f"{times(result.measured_speedup, result.range)} measured, {result.expected_speedup:.2f}x expected; "
        f"exits by stage: {percentages(result.exit_rates)}"
    )
    memory = optional(result.peak_memory_mb, "{:,.0f} MB")
    console().print(f"routing overhead {percent(result.routing_overhead)}; peak memory {memory}")


def print_drift(result: DriftResult) -> None:
    """Print the changes, the verdict and its reasons."""
    change = f"change ({100 * result.confidence_level:g} %)"
    rows: list[tuple[str, ...]] = [("", f"{result.n_reference:,} reference", f"{result.n_new:,} new", change)]
    rates = {f"stage {i}: exit rate": stage.exit_rate for i, stage in enumerate(result.stages, start=1)}
    rates["agreement with last stage"] = result.agreement
    for name, rate in rates.items():
        rows.append((name, percent(rate.reference.value), percent(rate.new.value), points(rate.change)))
    for i, stage in enumerate(result.stages, start=1):
        if stage.distance is not None:
            means = [f"{mean:.3f}" for mean in stage.mean_confidences]
            distance = f"distance {percent_interval(stage.distance)}"
            rows.append((f"stage {i}: mean confidence", *means, distance))
    print_table(*rows)
    for sentence in (result.headline, *result.reasons):
        console().print(sentence)
    if result.verdict == "inconclusive":
        print_notices(["no verdict; the exit code is 0"])


def print_spec(spec: CascadeSpec, *, checked: bool) -> None:
    """Print the stages, labels and operating point of a saved cascade."""
    rows = [("stage", "made from", "layers", "width", "temperature", "exits above")]
    thresholds = [f"{threshold:.4f}" for threshold in spec.operating_point.thresholds]
    for stage, exits in zip(spec.stages, [*thresholds, "always"], strict=True):
        size = str(stage.layers), str(stage.hidden)
        rows.append((str(len(rows)), stage.name, *size, f"{stage.temperature:.3f}", exits))
    print_table(*rows)
    console().print(f"labels: {', '.join(spec.label_names)}")
    print_operating_point(spec.operating_point)
    if checked:
        console().print("checked: every file of every stage is unchanged")


def print_operating_point(point: OperatingPoint, timing: MeasuredTiming | None = None) -> None:
    """Print the metrics of an operating point on the tuning set, its timing and its guarantees."""
    metrics, certificate = point.metrics, point.certificate
    if metrics is not None:
        print_notices(metrics.notices)
        validated = metrics.cross_validated
        suffix = "" if validated is None else f"; ten-fold cross-validated {percent(validated)}"
        console().print(
            f"On the {metrics.n:,} examples of the tuning set: {metrics.metric} {percent(metrics.value)} "
            f"(last stage alone {percent(metrics.last_stage)}{suffix}), "
            f"{metrics.speedup:.2f}x by {metrics.cost_unit}."
        )
    if timing is not None:
        console().print(f"Expected wall-clock speed-up: {timing.expected_speedup:.2f}x ({timing.machine}).")
    if certificate is None:
        return
    for result in certificate.guarantees:
        console().print(
            f"Certified at {percent(1 - certificate.delta)} confidence: {result.guarantee.description} on "
            f"new data like these ({result.n:,} examples, used once; their own bound is {result.bound:.4f})."
        )
    first, last = certificate.points[0].speedup, certificate.points[-1].speedup
    console().print(
        f"It holds at {len(certificate.points)} operating points from {first:.2f}x to {last:.2f}x, for "
        f"{certificate.engine} in {certificate.precision} on {certificate.device}."
    )


def print_new_cascade(cascade: Cascade, output: Path, *, seconds: float) -> None:
    """Print what `fit` or `assemble` made, with its quality on the tuning set."""
    spec = cascade.spec
    assert spec is not None
    stages = [stage.model_dump(include={"name", "layers", "hidden", "temperature"}) for stage in spec.stages]
    if spec.measured is not None:
        print_report(spec.measured)
        for stage, report in zip(stages, spec.measured.stages, strict=True):
            stage.update(asdict(report))
    print_operating_point(cascade.operating_point, spec.timing)
    console().print(f"Saved in {output}. Next: cascadebert evaluate {output} TEST_FILE")
    values = _tuning_values(cascade.operating_point, spec.measured, spec.timing)
    print_json({**values, "output": str(output), "stages": stages, "seconds": round(seconds, 1)})


def print_tuning(result: TuningResult) -> None:
    """Print new thresholds, with their quality on the tuning set and their certificate."""
    print_operating_point(result.point, result.timing)
    values = _tuning_values(result.point, result.report, result.timing)
    print_json({**values, "feasible": True, "nearest": None})


def _tuning_values(
    point: OperatingPoint, report: Report | None, timing: MeasuredTiming | None
) -> dict[str, Any]:
    values = asdict(point)
    return {
        **values.pop("metrics"),
        **values,
        **{name: getattr(report, name, None) for name in ("accuracy", "layers_speedup", "flops_speedup")},
        "expected_speedup": timing.expected_speedup if timing else None,
    }


def print_distilled_models(models: DistilledModels, *, seconds: float) -> None:
    """Print the size of each model, and how much of the large model's hidden states it explains."""
    rows = [("model", "layers x width", "parameters", "of the large model's hidden states")]
    for model in models.students:
        explained = "not trained" if model.held_out_loss is None else percent(1 - model.held_out_loss)
        size = f"{model.layers} x {model.hidden}", f"{model.parameters / 1e6:.1f} M"
        rows.append((str(model.path), *size, explained))
    print_table(*rows)
    failed = [str(model.path) for model in models.students if (model.held_out_loss or 0) > FAILED_LOSS]
    if failed:
        print_notices([f"{', '.join(failed)}: hardly anything was learned. Lower --learning-rate."])
    if models.complete:
        rate = optional(models.tokens_per_second, "{:,.0f}")
        padding = percent(models.padding)
        console().print(f"{models.tokens / 1e6:.1f} M tokens, {rate} per second; {padding} padding.")
    else:
        print_notices(["truncated models, NOT complete ones. Give --corpus to distill them."])
    values = asdict(models)
    for student in values["students"]:
        student["path"] = str(student["path"])
    print_json({**values, "seconds": round(seconds, 1)})
