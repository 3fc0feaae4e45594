"""Printing shared by the verbs: text for people, one line of JSON for programs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from cascadebert.evaluation.templates import percent

if TYPE_CHECKING:
    from cascadebert.inference.cascade import Cascade
    from cascadebert.persistence.schema import MeasuredTiming
    from cascadebert.thresholds.operating_point import OperatingPoint
    from cascadebert.types import Report

NOTE = "note: "
JSON_ENABLED = ContextVar("JSON_ENABLED", default=False)  # `--json` of the running command


class _LineHandler(logging.Handler):
    """Prints each record in a line of its own; warnings look as notices do."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it on standard error, above a progress bar that may be there."""
        try:
            line = " ".join(self.format(record).splitlines())
            if record.levelno >= logging.WARNING:
                line = (typer.style(NOTE, fg="yellow") if sys.stderr.isatty() else NOTE) + line
            sys.stderr.write(f"{line}\n")
        except Exception:  # such as a full disk: as handlers of the standard library do
            self.handleError(record)


def configure_logging(*, timestamps: bool = False) -> None:
    """Send the package's log to standard error; with timestamps, for log collectors."""
    handler: logging.Handler = _LineHandler()
    if timestamps:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("cascadebert")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def print_json(values: Mapping[str, Any], **more: Any) -> None:
    """Print one line of JSON, with `--json`; paths become strings."""
    if JSON_ENABLED.get():
        typer.echo(json.dumps({**values, **more}, default=str))


def print_notices(notices: Iterable[str], *, label: str = NOTE, color: str = "yellow") -> None:
    """Print notices on standard error."""
    for notice in notices:
        typer.echo(typer.style(label, fg=color) + notice, err=True)


def print_table(*rows: Iterable[object]) -> None:
    """Print a table whose first row is its header."""
    header, *body = rows
    table = Table(*map(str, header), box=None, header_style="bold", pad_edge=False)
    for row in body:
        table.add_row(*map(str, row))
    Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(table)


def optional(value: float | None, form: str | Callable[[float], str]) -> str:
    """Format a value that may be missing.

    >>> optional(2.0, "{:.2f}x"), optional(0.5, percent), optional(None, percent)
    ('2.00x', '50.0 %', 'n/a')
    """
    if value is None:
        return "n/a"
    return form.format(value) if isinstance(form, str) else form(value)


def percentages(fractions: Iterable[float]) -> str:
    """Format fractions, such as '25.0 % / 75.0 %'."""
    return " / ".join(map(percent, fractions))


def print_report(report: Report) -> None:
    """Print the metrics of each stage alone and of the cascade."""
    rows = [("", "accuracy", "ECE", "DIS", "exits by stage")]
    for number, stage in enumerate(report.stages, start=1):
        dis = optional(stage.dis, "{:.3f}")
        rows.append((f"stage {number} alone", percent(stage.accuracy), f"{stage.ece:.3f}", dis, ""))
    exits = percentages(report.exit_rates)
    print_table(*rows, ("cascade", percent(report.accuracy), f"{report.ece:.3f}", "", exits))
    layers, flops = (optional(value, "{:.2f}x") for value in (report.layers_speedup, report.flops_speedup))
    speedups = f"layers speed-up {layers}, FLOPs speed-up {flops}"
    typer.echo(f"{report.n:,} examples; macro F1 {report.macro_f1:.3f}; {speedups}")


def print_operating_point(point: OperatingPoint, timing: MeasuredTiming | None = None) -> None:
    """Print the metrics of an operating point on the tuning set, its timing and its guarantees."""
    metrics, certificate = point.metrics, point.certificate
    if metrics is not None:
        print_notices(metrics.notices)
        validated = metrics.cross_validated
        suffix = "" if validated is None else f"; ten-fold cross-validated {percent(validated)}"
        typer.echo(
            f"On the {metrics.n:,} examples of the tuning set: {metrics.metric} {percent(metrics.value)} "
            f"(last stage alone {percent(metrics.last_stage)}{suffix}), "
            f"{metrics.speedup:.2f}x by {metrics.cost_unit}."
        )
    if timing is not None:
        typer.echo(f"Expected wall-clock speed-up: {timing.expected_speedup:.2f}x ({timing.machine}).")
    if certificate is None:
        return
    for result in certificate.guarantees:
        typer.echo(
            f"Certified at {percent(1 - certificate.delta)} confidence: {result.guarantee.description} on "
            f"new data like these ({result.n:,} examples, used once; their own bound is {result.bound:.4f})."
        )
    first, last = certificate.points[0].speedup, certificate.points[-1].speedup
    typer.echo(
        f"It holds at {len(certificate.points)} operating points from {first:.2f}x to {last:.2f}x, for "
        f"{certificate.engine} in {certificate.precision} on {certificate.device}."
    )


def tuning_values(point: OperatingPoint, report: Report | None, timing: MeasuredTiming) -> dict[str, Any]:
    """JSON values of an operating point: its metrics at the top level, and its speed-ups."""
    values, names = asdict(point), ("accuracy", "layers_speedup", "flops_speedup")
    measured = {name: getattr(report, name, None) for name in names}
    return {**values.pop("metrics"), **values, **measured, "expected_speedup": timing.expected_speedup}


def print_new_cascade(cascade: Cascade, output: Path, *, seconds: float) -> None:
    """Print what `fit` or `assemble` made, with its quality on the tuning set."""
    spec, point = cascade.spec, cascade.operating_point
    assert spec is not None and spec.timing is not None
    stages = [stage.model_dump(include={"name", "layers", "hidden", "temperature"}) for stage in spec.stages]
    if spec.measured is not None:
        print_report(spec.measured)
        for stage, report in zip(stages, spec.measured.stages, strict=True):
            stage.update(asdict(report))
    print_operating_point(point, spec.timing)
    typer.echo(f"Saved in {output}. Next: cascadebert evaluate {output} TEST_FILE")
    values = tuning_values(point, spec.measured, spec.timing)
    print_json(values, output=output, stages=stages, seconds=round(seconds, 1))
