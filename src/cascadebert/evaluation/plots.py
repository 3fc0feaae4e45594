"""Charts of accuracy against speed and of benchmark results, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cascadebert.errors import extra
from cascadebert.types import Floats

if TYPE_CHECKING:
    from cascadebert.evaluation.benchmark import BenchmarkResult

INK, MUTED, ACCENT = "#1f2933", "#7b8794", "#d64545"
SPEEDUP_TICKS = (0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def plot_pareto_front(
    path: Path,
    *,
    speedups: Floats,
    accuracies: Floats,
    stages: Mapping[str, tuple[float, float]],
    selected: tuple[float, float],
    title: str,
    axis: str,
) -> None:
    """Draw the (points,) accuracies in [0, 1] of a cascade against its rising (points,) speed-ups.

    `stages` maps the name of each stage alone, and `selected` the operating point, to its (speed-up,
    accuracy); `axis` is the label of the speed-up axis.
    """
    with extra("tune"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(speedups, 100 * accuracies, color=INK, linewidth=2, label="cascade, every threshold")
    for name, (speedup, accuracy) in stages.items():
        point = (speedup, 100 * accuracy)
        axes.plot(*point, "o", color=MUTED, markersize=8)
        axes.annotate(name, point, (0, -16), textcoords="offset points", color=MUTED, ha="center")
    label = "selected on the tuning set"
    axes.plot(selected[0], 100 * selected[1], "D", color=ACCENT, markersize=9, label=label)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel(axis)
    axes.set_ylabel("accuracy on test examples, %")
    axes.set_xscale("log")
    ticks = [tick for tick in SPEEDUP_TICKS if tick <= 1.1 * float(speedups.max())]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.15)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, format="svg")


def plot_benchmark(path: Path, result: BenchmarkResult) -> None:
    """Draw the texts per second of every timed predictor, with the range of its runs and its accuracy."""
    with extra("tune"):
        from matplotlib.figure import Figure
    timed = (result.cascade, result.last_stage, *result.others)[::-1]
    rates = [predictor.examples_per_second for predictor in timed]
    lows, highs = zip(*(predictor.range for predictor in timed), strict=True)
    figure = Figure(figsize=(7.5, 0.9 + 0.42 * len(timed)), layout="constrained")
    axes = figure.add_subplot()
    colours = [ACCENT if predictor is result.cascade else MUTED for predictor in timed]
    errors = [
        [rate - low for rate, low in zip(rates, lows, strict=True)],
        [high - rate for rate, high in zip(rates, highs, strict=True)],
    ]
    names = [predictor.name for predictor in timed]
    axes.barh(names, rates, xerr=errors, color=colours, ecolor=INK, height=0.6)
    for y, predictor in enumerate(timed):
        accuracy = "" if predictor.accuracy is None else f", {100 * predictor.accuracy:.1f} % accuracy"
        text = f"  {predictor.examples_per_second:,.0f}{accuracy}"
        axes.text(predictor.range[1], y, text, va="center", color=INK, fontsize=9)
    axes.set_xlim(0, 1.45 * max(highs))
    axes.set_xlabel(
        f"texts per second, {result.n:,} texts, median and range of {result.repeats} interleaved runs"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg")
