"""Charts of speed, benchmark results and the report page, as SVG."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from cascadebert.atomic import atomic_file
from cascadebert.errors import DataError, extra
from cascadebert.paths import ensure_writable_file, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cascadebert.evaluation.benchmark import BenchmarkResult
    from cascadebert.evaluation.report.analysis import CalibrationAnalysis, HighConfidenceErrors
    from cascadebert.evaluation.report.verdict import Verdict
    from cascadebert.thresholds.select import ParetoFront

INK, MUTED, ACCENT = "#1f2933", "#7b8794", "#d64545"
PAGE_ACCENT, PAGE_SECOND = "#c2410c", "#1d4ed8"  # of the report page
STYLES = ("--", "-.", ":")
SPEEDUP_TICKS = (0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def ensure_plot_writable(path: Path) -> None:
    """Check the path of a chart before anything costly runs.

    Raises DataError if it is not an SVG file or cannot be written, and MissingExtra without matplotlib.
    """
    with extra("tune"):
        import_module("matplotlib")
    if path.suffix.lower() != ".svg":
        raise DataError(f"{shown(path)}: expected a file ending in .svg to write the chart to")
    ensure_writable_file(path, overwrite=True)


def plot_pareto_front(
    path: Path,
    front: ParetoFront,
    stages: Mapping[str, tuple[float, float]],
    selected: tuple[float, float],
    *,
    title: str,
    axis: str,
) -> None:
    """Draw a cascade's accuracies against its speed-ups.

    `stages` are the (speed-up, accuracy) of each stage alone by name, `selected` that of the operating point.
    """
    figure, axes = new_axes(7, 4.2, axis, "accuracy on test examples, %")
    axes.plot(
        front.speedups, 100 * (1 - front.losses), color=INK, linewidth=2, label="cascade, every threshold"
    )
    for name, (speedup, accuracy) in stages.items():
        point = (speedup, 100 * accuracy)
        axes.plot(*point, "o", color=MUTED, markersize=8)
        axes.annotate(name, point, (0, -16), textcoords="offset points", color=MUTED, ha="center")
    label = "selected on the tuning set"
    axes.plot(selected[0], 100 * selected[1], "D", color=ACCENT, markersize=9, label=label)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xscale("log")
    ticks = [tick for tick in SPEEDUP_TICKS if tick <= 1.1 * float(front.speedups.max())]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.15)
    axes.legend(frameon=False, loc="lower left")
    with atomic_file(path) as temporary:
        save_svg(figure, temporary)


def plot_benchmark(path: Path, result: BenchmarkResult) -> None:
    """Draw the texts per second of every timed predictor, with the range of its runs and its accuracy."""
    timed = (result.cascade, result.last_stage, *result.others)[::-1]
    rates = np.array([predictor.examples_per_second for predictor in timed])
    lows, highs = np.array([predictor.range for predictor in timed]).T
    label = f"texts per second, {result.n:,} texts, median and range of {result.repeats} interleaved runs"
    figure, axes = new_axes(7.5, 0.9 + 0.42 * len(timed), label, "", grid=False)
    colors = [ACCENT if predictor is result.cascade else MUTED for predictor in timed]
    names = [predictor.name for predictor in timed]
    axes.barh(names, rates, xerr=[rates - lows, highs - rates], color=colors, ecolor=INK, height=0.6)
    for y, predictor in enumerate(timed):
        accuracy = "" if predictor.accuracy is None else f", {100 * predictor.accuracy:.1f} % accuracy"
        text = f"  {predictor.examples_per_second:,.0f}{accuracy}"
        axes.text(predictor.range[1], y, text, va="center", color=INK, fontsize=9)
    axes.set_xlim(0, 1.45 * max(highs))
    with atomic_file(path) as temporary:
        save_svg(figure, temporary)


def reliability_chart(analysis: CalibrationAnalysis) -> str:
    """Accuracy over confidence of one predictor, before and after temperature scaling."""
    before, after = analysis.uncalibrated, analysis.calibrated
    figure, axes = new_axes(4.2, 3.6, "mean confidence", "accuracy")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, label="calibrated")
    for metrics, marker, color, name in (
        (before, "s", PAGE_SECOND, "before scaling"),
        (after, "o", PAGE_ACCENT, "after scaling"),
    ):
        bins = metrics.bins
        size = 12 + 110 * np.array(bins.counts) / sum(bins.counts)
        axes.scatter(
            bins.confidence, bins.accuracy, s=size, marker=marker, color=color, alpha=0.75, label=name
        )
    lowest = min((*before.bins.confidence, *after.bins.confidence))
    axes.set_xlim(np.floor(lowest * 10) / 10 - 0.02, 1.02)
    axes.set_ylim(-0.03, 1.03)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    errors = f"ECE {before.ece.value:.3f} before and {after.ece.value:.3f} after scaling"
    return inline(figure, f"Reliability of {analysis.name}: {errors}")


def risk_chart(analyses: Sequence[CalibrationAnalysis]) -> str:
    """Risk-coverage curves of every stage and the cascade."""
    figure, axes = new_axes(5.4, 3.6, "coverage, most confident first, %", "error rate, %")
    for i, analysis in enumerate(analyses):
        color, width, style = INK, 1.3, STYLES[i % len(STYLES)]
        if analysis.name == "cascade":
            color, width, style = PAGE_ACCENT, 2.2, "-"
        coverage, risk = 100 * np.array(analysis.risk.coverage), 100 * np.array(analysis.risk.risk)
        axes.plot(coverage, risk, label=analysis.name, color=color, linewidth=width, linestyle=style)
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="best", fontsize=9)
    areas = ", ".join(f"{analysis.name} {analysis.risk.area:.4f}" for analysis in analyses)
    return inline(figure, f"Risk against coverage; area under the curve: {areas}")


def time_chart(verdict: Verdict) -> str:
    """Accuracy against time of the cascade, its alternatives and oracle routing."""
    last, oracle, routing = verdict.last_stage, verdict.oracle, verdict.random_routing
    alternatives = (*verdict.alternatives, last)
    points = {item.name: (1000 * item.seconds, 100 * item.accuracy) for item in alternatives}
    cascade = (1000 * verdict.seconds, 100 * verdict.accuracy)
    best = (1000 * last.seconds / oracle.expected_speedup, 100 * oracle.accuracy)
    figure, axes = new_axes(5.4, 3.8, "milliseconds per text, measured (lower is better)", "accuracy, %")
    if routing is not None:
        times, accuracies = zip(points[routing.fast], points[routing.slow], strict=True)
        axes.plot(times, accuracies, ":", color=MUTED, label="random routing")
    for name, point in points.items():
        is_stage = name.startswith("stage")
        axes.plot(*point, "o" if is_stage else "s", color=INK, markersize=7)
        label, offset = (name.removesuffix(" alone"), -15) if is_stage else ("baseline", 9)
        axes.annotate(label, point, (0, offset), "data", "offset points", ha="center", color=INK, fontsize=9)
    axes.plot(*best, "*", color=PAGE_SECOND, markersize=12, label="oracle (expected)")
    axes.plot(*cascade, "D", color=PAGE_ACCENT, markersize=9, label="cascade")
    axes.margins(x=0.15, y=0.25)
    axes.set_xlim(left=-0.06 * axes.get_xlim()[1])
    axes.set_ylim(top=min(101.0, axes.get_ylim()[1]))
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3, fontsize=9)
    described = {"cascade": cascade, **points, "oracle": best}
    values = "; ".join(f"{name} {time:.3g} ms, {score:.1f} %" for name, (time, score) in described.items())
    return inline(figure, f"Accuracy against time: {values}")


def errors_chart(errors: HighConfidenceErrors) -> str:
    """Regression rate of early exits by decile of confidence."""
    rates = [100 * regressions / count for count, regressions in errors.deciles]
    numbers = np.arange(1, len(rates) + 1)
    figure, axes = new_axes(5.4, 3.2, "early exits by decile of confidence (1 lowest)", "regressions, %")
    axes.bar(numbers, rates, color=PAGE_ACCENT, width=0.7)
    axes.set_xticks(numbers)
    axes.set_ylim(0, max([1.0, *rates]) * 1.1)
    values = ", ".join(f"{rate:.1f}" for rate in rates)
    return inline(figure, f"Regressions among early exits, in % by decile of confidence: {values}")


def new_axes(
    width: float, height: float, x_label: str, y_label: str, *, grid: bool = True
) -> tuple[Figure, Axes]:
    """A figure of a size in inches, with one set of axes."""
    with extra("tune"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    if grid:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_svg(figure: Figure, file: Path | TextIO, *, salt: str = "cascadebert", page: bool = False) -> None:
    """Write a figure as SVG: the same figure gives the same file, with ids that depend on `salt`.

    For a page, the text stays text and the background is transparent.
    """
    with extra("tune"):
        from matplotlib import rc_context
    style: Any = {"svg.hashsalt": salt}
    if page:
        style |= {"svg.fonttype": "none", "font.family": "sans-serif"}
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context(style):
        figure.savefig(file, format="svg", transparent=page, metadata=metadata)


def inline(figure: Figure, description: str) -> str:
    """The figure as one scalable svg element, with ids of its own and the description as its title."""
    buffer = io.StringIO()
    save_svg(figure, buffer, salt=description, page=True)
    svg = buffer.getvalue()
    head, body = svg[svg.index("<svg") :].split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None
    prefix = f"c{zlib.crc32(description.encode()):08x}-"  # several charts share the page's ids
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{prefix}', body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}', body).replace("url(#", f"url(#{prefix}")
    title = escape(description, quote=True)
    return f'<svg {view_box.group()} role="img" aria-label="{title}"><title>{title}</title>{body}'
