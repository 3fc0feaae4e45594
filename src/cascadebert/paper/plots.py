"""Pictures of the experiment, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascadebert.errors import extra
from cascadebert.evaluation.plots import ACCENT, INK, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (ACCENT, INK, "#2f7dd1", "#e0a030", "#3a9d5d", QUIET, "#8e5ea2", "#17becf", "#b0b7bd")
Rows = Sequence[Mapping[str, Any]]
SALT = "cascadebert"
"""Ids in the files do not differ from one drawing to the next."""


def draw_scores(path: Path, rows: Rows, *, basis: str, tasks: Sequence[str], methods: Sequence[str]) -> None:
    """Score against achieved speed-up, one panel per task and one of the mean; lines join a method's targets.

    Args:
        path: the SVG file to write.
        rows: lines of runs.jsonl.
        basis: "flops" or "time".
        tasks: panels.
        methods: lines.
    """
    panels = [*tasks, "mean of all tasks"]
    across = min(4, len(panels))
    figure, axes = _panels(len(panels), across)
    for panel, one in zip(panels, axes, strict=False):
        mine = [row for row in rows if row["basis"] == basis and (row["task"] == panel or panel not in tasks)]
        for number, method in enumerate(methods):
            targets = sorted({row["target"] for row in mine if row["method"] == method})
            points = [[r for r in mine if (r["method"], r["target"]) == (method, t)] for t in targets]
            speeds = [float(np.mean([r["achieved"] for r in point])) for point in points]
            scores = [100 * float(np.mean([r["score"] for r in point])) for point in points]
            style = "o" if len(points) == 1 else "o-"
            one.plot(speeds, scores, style, color=COLOURS[number % len(COLOURS)], label=method, markersize=4)
        _finish(one, panel, f"speed-up by {basis}", "score x 100")
    _save(figure, axes, path)


def draw_trust(path: Path, rows: Rows, *, figure_name: str, methods: Sequence[str]) -> None:
    """DIS or ECE per exit layer, mean over tasks; a small stage is a point at its depth.

    Args:
        path: the SVG file to write.
        rows: from `trust_by_exit`.
        figure_name: "dis", "ece" or "accuracy".
        methods: what is drawn.
    """
    figure, axes = _panels(1, 1)
    for number, method in enumerate(methods):
        mine = [row for row in rows if row["method"] == method]
        known = [row for row in mine if row[figure_name] is not None]
        layers = sorted({row["layer"] for row in known})
        means = [np.mean([row[figure_name] for row in known if row["layer"] == k]) for k in layers]
        style = "D" if len(layers) == 1 else "o-"
        axes[0].plot(layers, means, style, color=COLOURS[number % len(COLOURS)], label=method)
    _finish(axes[0], "mean over tasks", "layer", figure_name.upper())
    _save(figure, axes, path)


def draw_shallow(path: Path, rows: Rows, *, target: float) -> None:
    """Accuracy of exits and of complete models on the rows that leave there, mean over tasks by rows.

    Args:
        path: the SVG file to write.
        rows: from `complete_against_shallow`.
        target: of which points.
    """
    figure, axes = _panels(1, 1)
    mine = [row for row in rows if row["target"] == target]
    names = sorted({(row["method"], row["layer"], row["complete"]) for row in mine})
    for place, name in enumerate(names):
        same = [row for row in mine if (row["method"], row["layer"], row["complete"]) == name]
        weights = [row["rows"] for row in same]
        for shift, kind, colour in ((-0.2, "exit_accuracy", QUIET), (0.2, "complete_accuracy", ACCENT)):
            height = 100 * float(np.average([row[kind] for row in same], weights=weights))
            label = kind.split("_")[0] if place == 0 else None
            axes[0].bar(place + shift, height, width=0.38, color=colour, label=label)
    said = [f"{method}, {layer}".replace("-", "-\n") for method, layer, _ in names]
    axes[0].set_xticks(range(len(names)), said)
    _finish(axes[0], f"rows that leave at a layer, {target:g}x by FLOPs", "early exit, layer", "accuracy, %")
    _save(figure, axes, path)


def draw_difficulty(path: Path, rows: Rows, *, methods: Sequence[str]) -> None:
    """Mean confidence by difficulty, over all tasks.

    Args:
        path: the SVG file to write.
        rows: from `confidence_by_difficulty`.
        methods: what is drawn, all exits of each.
    """
    figure, axes = _panels(1, 1)
    names = sorted({(row["method"], row["exit"]) for row in rows if row["method"] in methods})
    for number, name in enumerate(names):
        mine = [row for row in rows if (row["method"], row["exit"]) == name]
        levels = sorted({row["difficulty"] for row in mine})
        means = [np.mean([row["confidence"] for row in mine if row["difficulty"] == one]) for one in levels]
        label = name[0] if sum(other[0] == name[0] for other in names) == 1 else f"{name[0]}, exit {name[1]}"
        axes[0].plot(levels, means, "o-", color=COLOURS[number % len(COLOURS)], label=label)
    _finish(axes[0], "mean over tasks", "share of other small models that are wrong", "mean confidence")
    _save(figure, axes, path)


def _panels(count: int, across: int) -> tuple[Any, list[Axes]]:
    with extra("tune"):
        from matplotlib.figure import Figure
    down = -(-count // across)
    figure = Figure(figsize=(7 if count == 1 else 3.4 * across, 4.2 if count == 1 else 3 * down + 0.6))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for one in axes[count:]:
        one.set_visible(False)
    return figure, axes[:count]


def _finish(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, axes: Sequence[Axes], path: Path) -> None:
    with extra("tune"):
        from matplotlib import rc_context
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    with rc_context({"svg.hashsalt": SALT}):
        figure.savefig(path, format="svg", metadata={"Date": None})
