"""Pictures for the page of a verdict, as SVG that lies inside HTML: no file, no script, no font."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from cascadebert.errors import extra
from cascadebert.evaluation.report.calibration_analysis import CalibrationAnalysis
from cascadebert.evaluation.report.error_analysis import HighConfidenceErrors
from cascadebert.evaluation.report.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, ACCENT, SECOND = "#1f2933", "#7b8794", "#c2410c", "#1d4ed8"
STYLES = ("-", "--", "-.", ":")
MILLISECONDS = 1000


def reliability_chart(trust: CalibrationAnalysis) -> str:
    """Accuracy over confidence of one predictor, before and after scaling; the diagonal is calibrated."""
    figure, axes = _canvas(4.2, 3.6)
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, label="calibrated")
    for calibration, mark, colour, name in (
        (trust.before, "s", SECOND, "before scaling"),
        (trust.after, "o", ACCENT, "after scaling"),
    ):
        bins = calibration.bins
        size = 12 + 110 * np.array(bins.counts) / sum(bins.counts)
        places = bins.confidence, bins.accuracy
        axes.scatter(*places, s=size, marker=mark, color=colour, alpha=0.75, label=name)
    least = min((*trust.before.bins.confidence, *trust.after.bins.confidence))
    axes.set_xlim(np.floor(least * 10) / 10 - 0.02, 1.02)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("mean confidence")
    axes.set_ylabel("share answered rightly")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    told = f"ECE {trust.before.ece.value:.3f} before and {trust.after.ece.value:.3f} after scaling"
    return _inline(figure, f"Reliability of {trust.name}: {told}")


def risk_chart(trusts: Sequence[CalibrationAnalysis]) -> str:
    """Share of wrong answers when only the surest rows are answered, of every stage and the cascade."""
    figure, axes = _canvas(5.4, 3.6)
    for i, trust in enumerate(trusts):
        ours = trust.name == "cascade"
        axes.plot(
            100 * np.array(trust.risk.coverage),
            100 * np.array(trust.risk.risk),
            color=ACCENT if ours else INK,
            linewidth=2.2 if ours else 1.3,
            linestyle="-" if ours else STYLES[1 + i % (len(STYLES) - 1)],
            label=trust.name,
        )
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows answered, the surest first, %")
    axes.set_ylabel("of these wrong, %")
    axes.legend(frameon=False, loc="best", fontsize=9)
    areas = ", ".join(f"{trust.name} {trust.risk.area:.4f}" for trust in trusts)
    return _inline(figure, f"Risk against coverage; area under the curve: {areas}")


def time_chart(verdict: Verdict) -> str:
    """Accuracy against time of the cascade, of everything it was compared with, and of the oracle."""
    figure, axes = _canvas(5.4, 3.8)
    last, oracle, coin = verdict.last_stage, verdict.oracle, verdict.coin
    places = {one.name: (one.seconds, one.accuracy) for one in (*verdict.others, last)}
    if coin is not None:
        ends = np.array([places[coin.fast], places[coin.slow]])
        axes.plot(MILLISECONDS * ends[:, 0], 100 * ends[:, 1], ":", color=QUIET, label="by chance")
    for name, (seconds, accuracy) in places.items():
        stage = name.startswith("stage")
        axes.plot(MILLISECONDS * seconds, 100 * accuracy, "o" if stage else "s", color=INK, markersize=7)
        called = name.removesuffix(" alone") if stage else "the other"
        _name(axes, called, MILLISECONDS * seconds, 100 * accuracy, below=stage)
    best = MILLISECONDS * last.seconds / oracle.expected_speedup
    axes.plot(best, 100 * oracle.accuracy, "*", color=SECOND, markersize=12, label="oracle (expected)")
    axes.plot(
        MILLISECONDS * verdict.seconds,
        100 * verdict.accuracy,
        "D",
        color=ACCENT,
        markersize=9,
        label="cascade",
    )
    axes.margins(x=0.15, y=0.25)
    axes.set_xlim(left=-0.06 * axes.get_xlim()[1])
    axes.set_ylim(top=min(101.0, axes.get_ylim()[1]))
    axes.set_xlabel("milliseconds per row, measured (lower is better)")
    axes.set_ylabel("accuracy, %")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3, fontsize=9)
    words = [("cascade", verdict.seconds, verdict.accuracy), *((k, *v) for k, v in places.items())]
    told = "; ".join(f"{k} {MILLISECONDS * s:.3g} ms, {100 * a:.1f} %" for k, s, a in words)
    return _inline(
        figure, f"Accuracy against time: {told}; oracle {best:.3g} ms, {100 * oracle.accuracy:.1f} %"
    )


def mistakes_chart(mistakes: HighConfidenceErrors) -> str:
    """Lost answers among rows that left early, from the least to the most sure tenth."""
    figure, axes = _canvas(5.4, 3.2)
    rates = [100 * lost / rows for rows, lost in mistakes.deciles]
    axes.bar(np.arange(1, len(rates) + 1), rates, color=ACCENT, width=0.7)
    axes.set_xticks(np.arange(1, len(rates) + 1))
    axes.set_ylim(0, max([1.0, *rates]) * 1.1)
    axes.set_xlabel("rows that left early, by confidence: 1 least sure")
    axes.set_ylabel("right answers lost, %")
    told = ", ".join(f"{rate:.1f}" for rate in rates)
    return _inline(figure, f"Right answers lost among rows that left early, in % by confidence: {told}")


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    with extra("tune"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _name(axes: Axes, name: str, x: float, y: float, *, below: bool) -> None:
    place = (0, -15 if below else 9)
    axes.annotate(name, (x, y), xytext=place, textcoords="offset points", ha="center", color=INK, fontsize=9)


def _inline(figure: Figure, told: str) -> str:
    """The figure as one svg element that fits its place, with names of its own and what it shows in words."""
    with extra("tune"):
        from matplotlib import rc_context
    drawn = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": told, "font.family": "sans-serif"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    body = drawn.getvalue()
    body = body[body.index("<svg") :]
    head, body = body.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    own = f"c{zlib.crc32(told.encode()):08x}-"
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{own}', body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{own}', body).replace("url(#", f"url(#{own}")
    words = escape(told, quote=True)
    return f'<svg {box.group()} role="img" aria-label="{words}"><title>{words}</title>{body}'
