"""Charts of the experiment, as SVG files; their rows are the lines of the result files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascadebert.errors import extra
from cascadebert.evaluation.plots import ACCENT, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (ACCENT, INK, "#2f7dd1", "#e0a030", "#3a9d5d", MUTED, "#8e5ea2", "#17becf", "#b0b7bd")
Rows = Sequence[Mapping[str, Any]]
HASH_SALT = "cascadebert"  # makes the ids in a file the same every time it is drawn


def draw_scores(path: Path, rows: Rows, *, basis: str, tasks: Sequence[str], methods: Sequence[str]) -> None:
    """Score against achieved speed-up, one panel per task and one of the mean, from the lines of runs.jsonl.

    Lines join the targets of a method.
    """
    panels = [*tasks, "mean of all tasks"]
    figure, axes = _create_panels(len(panels), min(4, len(panels)))
    for panel, axis in zip(panels, axes, strict=True):
        task = {"task": panel} if panel in tasks else {}
        for number, method in enumerate(methods):
            groups = _group_by(_where(rows, basis=basis, method=method, **task), "target").values()
            speedups = [_mean(group, "achieved") for group in groups]
            scores = [100 * _mean(group, "score") for group in groups]
            _plot_line(axis, number, speedups, scores, "o", label=method, markersize=4)
        _label(axis, panel, f"speed-up by {basis}", "score x 100")
    _save(figure, axes, path)


def draw_confidence(path: Path, rows: Rows, *, metric: str, methods: Sequence[str]) -> None:
    """DIS, ECE or accuracy by exit layer, mean over tasks, from `confidence_by_exit`.

    A small stage is a point at its depth.
    """
    figure, (axis,) = _create_panels(1, 1)
    for number, method in enumerate(methods):
        defined = [row for row in _where(rows, method=method) if row[metric] is not None]
        groups = _group_by(defined, "layer")
        means = [_mean(group, metric) for group in groups.values()]
        _plot_line(axis, number, list(groups), means, "D", label=method)
    _label(axis, "mean over tasks", "layer", metric.upper())
    _save(figure, [axis], path)


def draw_shallow(path: Path, rows: Rows, *, target: float) -> None:
    """Accuracy of exits and complete models on the texts that exit there, from `complete_against_shallow`."""
    figure, (axis,) = _create_panels(1, 1)
    groups = _group_by(_where(rows, target=target), "method", "layer", "complete")
    for position, group in enumerate(groups.values()):
        weights = [row["rows"] for row in group]
        for shift, kind, colour in ((-0.2, "exit_accuracy", MUTED), (0.2, "complete_accuracy", ACCENT)):
            height = 100 * float(np.average([row[kind] for row in group], weights=weights))
            label = kind.split("_")[0] if position == 0 else None
            axis.bar(position + shift, height, width=0.38, color=colour, label=label)
    ticks = [f"{method}, {layer}".replace("-", "-\n") for method, layer, _ in groups]
    axis.set_xticks(range(len(groups)), ticks)
    _label(axis, f"rows that leave at a layer, {target:g}x by FLOPs", "early exit, layer", "accuracy, %")
    _save(figure, [axis], path)


def draw_difficulty(path: Path, rows: Rows, *, methods: Sequence[str]) -> None:
    """Mean confidence by difficulty, one line per method and exit, from `confidence_by_difficulty`."""
    figure, (axis,) = _create_panels(1, 1)
    lines = _group_by([row for row in rows if row["method"] in methods], "method", "exit")
    names = [method for method, _ in lines]
    for number, ((method, exit_number), line) in enumerate(lines.items()):
        groups = _group_by(line, "difficulty")
        means = [_mean(group, "confidence") for group in groups.values()]
        label = method if names.count(method) == 1 else f"{method}, exit {exit_number}"
        _plot_line(axis, number, list(groups), means, "o-", label=label)
    _label(axis, "mean over tasks", "share of other small models that are wrong", "mean confidence")
    _save(figure, [axis], path)


def _where(rows: Rows, **values: object) -> Rows:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def _group_by(rows: Rows, *names: str) -> dict[Any, Rows]:
    key = itemgetter(*names)
    return {value: list(group) for value, group in groupby(sorted(rows, key=key), key)}


def _mean(rows: Rows, name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def _plot_line(
    axis: Axes, number: int, x: Sequence[float], y: Sequence[float], point: str, **style: Any
) -> None:
    # a single value is drawn as `point`
    marker = point if len(x) == 1 else "o-"
    axis.plot(x, y, marker, color=COLOURS[number % len(COLOURS)], **style)


def _create_panels(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    with extra("tune"):
        from matplotlib.figure import Figure
    rows = -(-count // columns)
    size = (7, 4.2) if count == 1 else (3.4 * columns, 3 * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


def _label(axis: Axes, title: str, x_label: str, y_label: str) -> None:
    axis.set_title(title, loc="left", color=INK, fontsize=10)
    axis.set_xlabel(x_label, fontsize=9)
    axis.set_ylabel(y_label, fontsize=9)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, axes: Sequence[Axes], path: Path) -> None:
    with extra("tune"):
        from matplotlib import rc_context
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    with rc_context({"svg.hashsalt": HASH_SALT}):
        figure.savefig(path, format="svg", metadata={"Date": None})
