"""Charts of the report page as inline SVG: no files, scripts or fonts."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from cascadebert.errors import extra
from cascadebert.evaluation.plots import INK, MUTED
from cascadebert.evaluation.report.calibration_analysis import CalibrationAnalysis
from cascadebert.evaluation.report.error_analysis import HighConfidenceErrors
from cascadebert.evaluation.report.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCENT, SECOND = "#c2410c", "#1d4ed8"
STYLES = ("--", "-.", ":")


def reliability_chart(analysis: CalibrationAnalysis) -> str:
    """Accuracy over confidence of one predictor, before and after temperature scaling."""
    before, after = analysis.uncalibrated, analysis.calibrated
    figure, axes = _canvas(4.2, 3.6, "mean confidence", "accuracy")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, label="calibrated")
    for metrics, marker, colour, name in (
        (before, "s", SECOND, "before scaling"),
        (after, "o", ACCENT, "after scaling"),
    ):
        bins = metrics.bins
        size = 12 + 110 * np.array(bins.counts) / sum(bins.counts)
        axes.scatter(
            bins.confidence, bins.accuracy, s=size, marker=marker, color=colour, alpha=0.75, label=name
        )
    lowest = min((*before.bins.confidence, *after.bins.confidence))
    axes.set_xlim(np.floor(lowest * 10) / 10 - 0.02, 1.02)
    axes.set_ylim(-0.03, 1.03)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    errors = f"ECE {before.ece.value:.3f} before and {after.ece.value:.3f} after scaling"
    return _inline(figure, f"Reliability of {analysis.name}: {errors}")


def risk_chart(analyses: Sequence[CalibrationAnalysis]) -> str:
    """Risk-coverage curves of every stage and the cascade."""
    figure, axes = _canvas(5.4, 3.6, "coverage, most confident first, %", "error rate, %")
    for i, analysis in enumerate(analyses):
        colour, width, style = INK, 1.3, STYLES[i % len(STYLES)]
        if analysis.name == "cascade":
            colour, width, style = ACCENT, 2.2, "-"
        coverage, risk = 100 * np.array(analysis.risk.coverage), 100 * np.array(analysis.risk.risk)
        axes.plot(coverage, risk, label=analysis.name, color=colour, linewidth=width, linestyle=style)
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="best", fontsize=9)
    areas = ", ".join(f"{analysis.name} {analysis.risk.area:.4f}" for analysis in analyses)
    return _inline(figure, f"Risk against coverage; area under the curve: {areas}")


def time_chart(verdict: Verdict) -> str:
    """Accuracy against time of the cascade, its alternatives and oracle routing."""
    last, oracle, routing = verdict.last_stage, verdict.oracle, verdict.random_routing
    alternatives = (*verdict.alternatives, last)
    points = {one.name: (1000 * one.seconds, 100 * one.accuracy) for one in alternatives}
    cascade = (1000 * verdict.seconds, 100 * verdict.accuracy)
    best = (1000 * last.seconds / oracle.expected_speedup, 100 * oracle.accuracy)
    figure, axes = _canvas(5.4, 3.8, "milliseconds per text, measured (lower is better)", "accuracy, %")
    if routing is not None:
        times, accuracies = zip(points[routing.fast], points[routing.slow], strict=True)
        axes.plot(times, accuracies, ":", color=MUTED, label="random routing")
    for name, point in points.items():
        is_stage = name.startswith("stage")
        axes.plot(*point, "o" if is_stage else "s", color=INK, markersize=7)
        label, offset = (name.removesuffix(" alone"), -15) if is_stage else ("baseline", 9)
        axes.annotate(label, point, (0, offset), "data", "offset points", ha="center", color=INK, fontsize=9)
    axes.plot(*best, "*", color=SECOND, markersize=12, label="oracle (expected)")
    axes.plot(*cascade, "D", color=ACCENT, markersize=9, label="cascade")
    axes.margins(x=0.15, y=0.25)
    axes.set_xlim(left=-0.06 * axes.get_xlim()[1])
    axes.set_ylim(top=min(101.0, axes.get_ylim()[1]))
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3, fontsize=9)
    described = {"cascade": cascade, **points, "oracle": best}
    values = "; ".join(f"{name} {time:.3g} ms, {score:.1f} %" for name, (time, score) in described.items())
    return _inline(figure, f"Accuracy against time: {values}")


def errors_chart(errors: HighConfidenceErrors) -> str:
    """Regression rate of early exits by decile of confidence."""
    rates = [100 * regressions / count for count, regressions in errors.deciles]
    numbers = np.arange(1, len(rates) + 1)
    figure, axes = _canvas(5.4, 3.2, "early exits by decile of confidence (1 lowest)", "regressions, %")
    axes.bar(numbers, rates, color=ACCENT, width=0.7)
    axes.set_xticks(numbers)
    axes.set_ylim(0, max([1.0, *rates]) * 1.1)
    values = ", ".join(f"{rate:.1f}" for rate in rates)
    return _inline(figure, f"Regressions among early exits, in % by decile of confidence: {values}")


def _canvas(width: float, height: float, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    with extra("tune"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _inline(figure: Figure, description: str) -> str:
    """The figure as one scalable svg element, with ids of its own and the description as its title."""
    with extra("tune"):
        from matplotlib import rc_context
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
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
