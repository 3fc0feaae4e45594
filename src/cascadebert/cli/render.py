"""What verbs print: words for people, one line of JSON for machines; the only room that prints."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from cascadebert.persistence.schema import MeasuredTiming
from cascadebert.thresholds.certificate import Certificate
from cascadebert.thresholds.operating_point import TuningMetrics
from cascadebert.types import Report

if TYPE_CHECKING:
    from cascadebert.evaluation.benchmark import BenchmarkResult, TimedPredictor
    from cascadebert.evaluation.drift_test import DriftResult
    from cascadebert.types import Interval


def console() -> Console:
    """For words to people: standard output."""
    return Console(highlight=False, soft_wrap=True, markup=False)


def errors() -> Console:
    """For errors, notices and progress: standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def show_log() -> None:
    """Let the package's log speak on standard error."""
    log = logging.getLogger("cascadebert")
    handler = RichHandler(console=errors(), show_time=False, show_level=False, show_path=False)
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def show_server_log() -> None:
    """Let the package's log speak on standard error in lines with their time, for a file or a collector.

    A disk that is full loses lines and stops nothing.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("cascadebert").handlers = [handler]


def machine_line(values: Mapping[str, Any], wanted: bool) -> None:
    """Print the values as one line of JSON, last, if asked for."""
    if wanted:
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()


def say_notices(notices: Iterable[str]) -> None:
    """Say each notice on standard error."""
    for notice in notices:
        errors().print(Text.assemble(("note: ", "yellow"), notice))


def say_uncertified(why: str | None) -> None:
    """Say on standard error that nothing promised of a cascade holds here, if so."""
    say_notices([] if why is None else [f"uncertified: {why}"])


def say_error(message: str) -> None:
    """Say what went wrong on standard error."""
    errors().print(Text.assemble(("error: ", "red"), message))


def share(value: float) -> str:
    """A share as a percentage.

    >>> share(0.12345)
    '12.3 %'
    """
    return f"{100 * value:.1f} %"


def times(value: float | None) -> str:
    """A speed-up, or that there is none to give.

    >>> times(2.0), times(None)
    ('2.00x', 'n/a')
    """
    return "n/a" if value is None else f"{value:.2f}x"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    shown = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        shown.add_row(*row)
    console().print(shown)


def report_table(report: Report) -> None:
    """Print a report: each stage alone, then the cascade."""
    rows = [
        (f"stage {i} alone", share(stage.accuracy), f"{stage.ece:.3f}", _score(stage.dis), "")
        for i, stage in enumerate(report.stages, start=1)
    ]
    exits = " / ".join(share(rate) for rate in report.exit_rates)
    rows.append(("cascade", share(report.accuracy), f"{report.ece:.3f}", "", exits))
    table(("", "accuracy", "ECE", "DIS", "rows answered by stage"), rows)
    console().print(
        f"{report.n:,} rows; macro F1 {report.macro_f1:.3f}; layers speed-up {times(report.layers_speedup)}, "
        f"FLOPs speed-up {times(report.flops_speedup)}"
    )


def bench_table(result: BenchmarkResult) -> None:
    """Print what was timed and what follows from it."""
    rows = []
    for one in (result.cascade, result.last_stage, *result.others):
        name = one.name if one is not result.last_stage else f"{one.name} (the last)"
        spread = f"{one.range[0]:,.0f} - {one.range[1]:,.0f}"
        right = "n/a" if one.accuracy is None else share(one.accuracy)
        rows.append(
            (name, f"{one.examples_per_second:,.0f}", spread, right, _lost(one), share(one.agreement))
        )
    table(("", "texts/s", "range", "accuracy", "points lost (95 %)", "agreement"), rows)
    low, high = result.range
    exits = " / ".join(share(rate) for rate in result.exit_rates)
    console().print(
        f"{result.n:,} rows, {result.repeats} runs of each in turn. Against the last stage alone: "
        f"{times(result.measured_speedup)} ({low:.2f} - {high:.2f}) measured, "
        f"{times(result.expected_speedup)} expected; answered by stage: {exits}"
    )
    reached = (
        "" if result.ceiling_share is None else f", the last stage reaches {share(result.ceiling_share)}"
    )
    console().print(
        f"routing overhead {share(result.routing_overhead)}; padding {share(result.padding - 1)}; "
        f"matrix ceiling {result.ceiling / 1e9:,.0f} GFLOP/s{reached}"
    )
    memory = "n/a" if result.peak_memory_mb is None else f"{result.peak_memory_mb:,.0f} MB"
    start = "n/a" if result.start_seconds is None else f"{result.start_seconds:.1f} s"
    console().print(f"memory {memory}; from a new process to the first answer {start}")


def _lost(one: TimedPredictor) -> str:
    drop = one.accuracy_drop
    return (
        "" if drop is None else f"{100 * drop.value:+.1f} ({100 * drop.low:+.1f} to {100 * drop.high:+.1f})"
    )


def shift_table(found: DriftResult) -> None:
    """Print what has changed, whether the thresholds hold, and why."""
    rows = []
    for number, stage in enumerate(found.stages, start=1):
        rate, means = stage.exit_rate, stage.mean_confidences
        shares = share(rate.reference.value), share(rate.new.value), _interval(rate.change)
        rows.append((f"stage {number}: answered", *shares))
        if stage.distance is not None:
            shares = f"{means[0]:.3f}", f"{means[1]:.3f}", _distance(stage.distance)
            rows.append((f"stage {number}: mean confidence", *shares))
    both = found.agreement
    shares = share(both.reference.value), share(both.new.value), _interval(both.change)
    rows.append(("agreement with last stage", *shares))
    sure = f"change in points ({100 * found.confidence_level:g} %)"
    table(("", f"{found.n_reference:,} old", f"{found.n_new:,} new", sure), rows)
    for words in (found.headline, *found.reasons):
        console().print(words)
    if found.verdict == "cannot tell":
        say_notices(["no verdict; the exit code is 0"])


def _interval(one: Interval) -> str:
    return f"{100 * one.value:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"


def _distance(one: Interval) -> str:
    return f"distance {100 * one.value:.1f} ({100 * one.low:.1f} to {100 * one.high:.1f})"


def timing_line(timing: MeasuredTiming) -> str:
    """The speed-up to expect by the clock where the stages were timed, in words."""
    return f"Expected by the clock here: {times(timing.expected_speedup)} ({timing.machine})."


def expected_line(expected: TuningMetrics) -> str:
    """What an operating point gave on the rows it was picked on, in words."""
    unseen = ""
    if expected.cross_validated is not None:
        unseen = f" By thresholds picked on other rows (ten folds): {share(expected.cross_validated)}."
    return (
        f"On the {expected.n:,} rows that thresholds were picked on: {expected.metric} "
        f"{share(expected.value)} (last stage alone {share(expected.last_stage)}), "
        f"{times(expected.speedup)} by {expected.cost_unit}.{unseen}"
    )


def certificate_lines(certificate: Certificate) -> None:
    """Print what is promised on new data, and what the test saw."""
    sure = share(1 - certificate.delta)
    for one in certificate.guarantees:
        console().print(
            f"Certified at {sure} confidence: {one.guarantee.words} on new data like these "
            f"({one.n:,} rows, read once; their own bound is {one.bound:.4f})."
        )
    first, last = certificate.points[0].speedup, certificate.points[-1].speedup
    console().print(
        f"It holds at {len(certificate.points)} points from {times(first)} to {times(last)}, for "
        f"{certificate.engine} in {certificate.precision} on {certificate.device}."
    )


def _score(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
