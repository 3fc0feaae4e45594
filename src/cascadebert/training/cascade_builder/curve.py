"""The curve of a build: agreement with the classifier against expected speed-up, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascadebert.atomic import atomic_file
from cascadebert.errors import extra, printable
from cascadebert.evaluation.plots import (
    INK,
    MUTED,
    PAGE_ACCENT,
    PAGE_SECOND,
    ensure_plot_writable,
    inline,
    new_axes,
    save_svg,
)
from cascadebert.training.cascade_builder.result import BuildResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

Point = tuple[float, float]  # speed-up, agreement in %
WIDTH = 28  # characters of a name
# Of a label, from its point in typographical points, with its alignment.
PLACES = tuple(
    (x, y, horizontal, vertical)
    for y, vertical in ((-7, "top"), (7, "bottom"), (0, "center"))
    for x, horizontal in ((0, "center"), (8, "left"), (-8, "right"))
    if (x, y) != (0, 0)
)


def curve_chart(result: BuildResult) -> str:
    """The curve for a page, or no text if nothing was chosen."""
    if result.chosen is None:
        return ""
    target = f"; the target is {100 * result.target.value:g} %" if _has_target_line(result) else ""
    points = "; ".join(
        f"{name} {x:.3g}x, {y:.1f} %" for name, (x, y) in (*_candidates(result), *_operating_points(result))
    )
    return inline(curve_figure(result), f"Agreement against expected speed-up: {points}{target}")


def save_curve(path: Path, result: BuildResult) -> None:
    """Write the curve as an SVG file, atomically; something must have been chosen."""
    ensure_plot_writable(path)
    with atomic_file(path) as temporary:
        save_svg(curve_figure(result), temporary)


def curve_figure(result: BuildResult) -> Figure:
    """The figure; something must have been chosen."""
    chosen = result.chosen
    assert chosen is not None
    figure, axes = new_axes(7, 4.4, "expected speed-up over the classifier alone", "agreement, %")
    curve = [(speedup, 100 * agreement) for speedup, agreement in chosen.curve]
    label = "chosen chain, every threshold" if result.cascades else "best chain, every threshold"
    axes.plot(*np.array(curve).reshape(-1, 2).T, color=INK, linewidth=2, label=label)
    if _has_target_line(result):
        axes.axhline(100 * result.target.value, color=MUTED, linestyle="--", linewidth=1, label="target")
    alone, operating = _candidates(result), _operating_points(result)
    for _, point in alone:
        axes.plot(*point, "o", color=PAGE_SECOND, markersize=6)
    for (name, point), filled in zip(operating, (PAGE_ACCENT, "white"), strict=False):
        axes.plot(*point, "D", color=PAGE_ACCENT, markerfacecolor=filled, markersize=8, label=name)
    speedups = [x for x, _ in (*curve, *(point for _, point in (*alone, *operating)))]
    _scale_by_ratio(axes, min(speedups), max(speedups))
    axes.margins(x=0.08, y=0.12)
    axes.set_ylim(top=min(axes.get_ylim()[1], 102))
    figure.legend(frameon=False, loc="outside upper center", ncols=2, fontsize=9)
    first = sorted(alone, key=lambda item: item[0] not in chosen.stages)
    _label_points(figure, axes, first, [point for _, point in operating], curve)
    return figure


def _has_target_line(result: BuildResult) -> bool:
    return result.target.name == "min_agreement"


def _candidates(result: BuildResult) -> list[tuple[str, Point]]:
    """Every candidate alone that was made, by name."""
    return [
        (candidate.name, (1 / candidate.relative_cost, 100 * candidate.agreement))
        for candidate in result.candidates
        if candidate.relative_cost and candidate.agreement is not None
    ]


def _operating_points(result: BuildResult) -> list[tuple[str, Point]]:
    """The choice on the tuning set, if it is among those tried, and by cross-validation.

    A certificate may have moved the thresholds of the saved cascade since.
    """
    chosen = result.chosen
    assert chosen is not None
    on_tuning_set = [
        ("the choice on the tuning set", (chain.speedup, 100 * chain.agreement))
        for chain in chosen.tried
        if (chain.stages, chain.score) == (chosen.stages, chosen.score)
    ]
    held_out = (chosen.held_out.speedup, 100 * chosen.held_out.agreement)
    return [*on_tuning_set[:1], ("the whole choice, cross-validated", held_out)]


def _scale_by_ratio(axes: Axes, low: float, high: float) -> None:
    with extra("tune"):
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
    axes.set_xscale("log")
    steps = (1, 2, 5) if high > 12 * low else (1, 1.5, 2, 3, 4, 6, 8)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=99))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))


def _label_points(
    figure: Figure,
    axes: Axes,
    named: Sequence[tuple[str, Point]],
    others: Sequence[Point],
    curve: Sequence[Point],
) -> None:
    """Write the names beside their points, the first ones first, where they cover no other name or point.

    They stay clear of the curve too where they can. A name without such a place is left out.
    """
    figure.draw_without_rendering()  # fixes the layout
    frame, to_pixels = axes.get_window_extent(), axes.transData.transform
    points = to_pixels(np.array([*(point for _, point in named), *others]))
    steps = np.linspace(0, len(curve) - 1, 500)
    line = np.stack([np.interp(steps, range(len(curve)), ends) for ends in to_pixels(np.array(curve)).T], 1)
    boxes: list[Bbox] = []
    for name, point in named:
        label = axes.annotate(
            printable(name, WIDTH), point, (0, 0), textcoords="offset points", fontsize=9, color=INK
        )
        label.set_in_layout(False)
        for obstacles, place in product((np.concatenate([points, line]), points), PLACES):
            box = _place(label, *place)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not box.count_contains(obstacles) and not box.count_overlaps(boxes):
                boxes.append(box)
                break
        else:
            label.remove()


def _place(label: Annotation, x: float, y: float, horizontal: Any, vertical: Any) -> Bbox:
    """Move a label and return the pixels that it covers."""
    label.set_position((x, y))
    label.set(horizontalalignment=horizontal, verticalalignment=vertical)
    return label.get_window_extent().padded(3)
