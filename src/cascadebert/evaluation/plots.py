"""Pictures of what was measured, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cascadebert.errors import extra
from cascadebert.types import Floats

if TYPE_CHECKING:
    from cascadebert.evaluation.benchmark import BenchmarkResult

INK, QUIET, ACCENT = "#1f2933", "#7b8794", "#d64545"


def plot_pareto_front(
    path: Path,
    *,
    speedups: Floats,
    accuracies: Floats,
    alone: Mapping[str, tuple[float, float]],
    chosen: tuple[float, float],
    title: str,
    axis: str,
) -> None:
    """Accuracy against speed-up: the cascade's curve, each stage alone, the operating point.

    Args:
        path: the SVG file to write.
        speedups: (points,) of the cascade, rising.
        accuracies: (points,) in [0, 1].
        alone: name to (speed-up, accuracy) of each stage on its own.
        chosen: (speed-up, accuracy) of the operating point.
        title: what the picture says.
        axis: what speed-up is counted in.
    """
    with extra("tune"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(speedups, 100 * accuracies, color=INK, linewidth=2, label="cascade, every threshold")
    for name, (gain, accuracy) in alone.items():
        axes.plot(gain, 100 * accuracy, "o", color=QUIET, markersize=8)
        axes.annotate(
            name,
            (gain, 100 * accuracy),
            xytext=(0, -16),
            textcoords="offset points",
            color=QUIET,
            ha="center",
        )
    axes.plot(chosen[0], 100 * chosen[1], "D", color=ACCENT, markersize=9, label="chosen on the tune rows")
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel(axis)
    axes.set_ylabel("accuracy on test rows, %")
    axes.set_xscale("log")
    ticks = [
        tick
        for tick in (0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
        if tick <= 1.1 * float(speedups.max())
    ]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.15)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, format="svg")


def plot_benchmark(path: Path, result: BenchmarkResult) -> None:
    """Texts per second of everything that was timed, with the range of the runs and the accuracy.

    Args:
        path: the SVG file to write.
        result: from `bench`.
    """
    with extra("tune"):
        from matplotlib.figure import Figure
    timed = (result.cascade, result.last_stage, *result.others)[::-1]
    rates = [one.examples_per_second for one in timed]
    figure = Figure(figsize=(7.5, 0.9 + 0.42 * len(timed)), layout="constrained")
    axes = figure.add_subplot()
    colours = [ACCENT if one is result.cascade else QUIET for one in timed]
    spread = [[one.examples_per_second - one.range[0] for one in timed]]
    spread.append([one.range[1] - one.examples_per_second for one in timed])
    axes.barh([one.name for one in timed], rates, xerr=spread, color=colours, ecolor=INK, height=0.6)
    for place, one in enumerate(timed):
        right = "" if one.accuracy is None else f", {100 * one.accuracy:.1f} % right"
        said = f"  {one.examples_per_second:,.0f}{right}"
        axes.text(one.range[1], place, said, va="center", color=INK, fontsize=9)
    axes.set_xlim(0, 1.45 * max(one.range[1] for one in timed))
    axes.set_xlabel(f"texts per second, {result.n:,} rows, median and range of {result.repeats} runs in turn")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg")
