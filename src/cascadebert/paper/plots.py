"""Charts of the experiment, as SVG files; their rows are the lines of the result files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascadebert.errors import extra
from cascadebert.evaluation.plots import ACCENT, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (
    *(ACCENT, INK, "#2f7dd1", "#e0a030", "#3a9d5d", MUTED),
    *("#8e5ea2", "#17becf", "#b0b7bd", "#c0504d", "#7a9a01", "#00509d"),
)
Rows = Sequence[Mapping[str, Any]]
MEAN = "mean over tasks"
HASH_SALT = "cascadebert"  # makes the ids in a file the same every time it is drawn


def draw_scores(path: Path, rows: Rows, *, basis: str, tasks: Sequence[str], methods: Sequence[str]) -> None:
    """Score against achieved speed-up, from runs.jsonl; the lines join the targets of a method."""
    with _chart(path, [*tasks, "mean of all tasks"], f"speed-up by {basis}", "score x 100") as panels:
        for panel, axis in panels.items():
            task = {"task": panel} if panel in tasks else {}
            for method in methods:
                drawn = _where(rows, basis=basis, method=method, **task)
                style: Any = {"by": "target", "scale": 100, "markersize": 4}
                _plot_means(axis, drawn, "achieved", "score", label=method, **style)


def draw_confidence(path: Path, rows: Rows, *, metric: str, methods: Sequence[str]) -> None:
    """DIS, ECE or accuracy by layer, mean over tasks, from `confidence_by_exit`; a small stage is a point."""
    with _chart(path, [MEAN], "layer", metric.upper()) as panels:
        for method in methods:
            defined = [row for row in _where(rows, method=method) if row[metric] is not None]
            _plot_means(panels[MEAN], defined, "layer", metric, point="D", label=method)


def draw_shallow(path: Path, rows: Rows, *, target: float) -> None:
    """Accuracy of exits and complete models on the texts that exit there, from `complete_against_shallow`."""
    title = f"rows that leave at a layer, {target:g}x by FLOPs"
    groups = _group_by(_where(rows, target=target), "method", "layer", "complete")
    with _chart(path, [title], "early exit, layer", "accuracy, %") as panels:
        axis = panels[title]
        for position, group in enumerate(groups.values()):
            weights = [row["rows"] for row in group]
            for shift, kind, color in ((-0.2, "exit_accuracy", MUTED), (0.2, "complete_accuracy", ACCENT)):
                height = 100 * float(np.average([row[kind] for row in group], weights=weights))
                label = kind.split("_")[0] if position == 0 else None
                axis.bar(position + shift, height, width=0.38, color=color, label=label)
        ticks = [f"{method}, {layer}".replace("-", "-\n") for method, layer, _ in groups]
        axis.set_xticks(range(len(groups)), ticks)


def draw_difficulty(path: Path, rows: Rows, *, methods: Sequence[str]) -> None:
    """Mean confidence by difficulty, one line per method and exit, from `confidence_by_difficulty`."""
    groups = _group_by([row for row in rows if row["method"] in methods], "method", "exit")
    names = [method for method, _ in groups]
    with _chart(path, [MEAN], "share of other small models that are wrong", "mean confidence") as panels:
        for (method, exit_number), group in groups.items():
            label = method if names.count(method) == 1 else f"{method}, exit {exit_number}"
            _plot_means(panels[MEAN], group, "difficulty", "confidence", point="o-", label=label)


def _where(rows: Rows, **values: object) -> Rows:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def _group_by(rows: Rows, *names: str) -> dict[Any, Rows]:
    key = itemgetter(*names)
    return {value: list(group) for value, group in groupby(sorted(rows, key=key), key)}


def _mean(rows: Rows, name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def _plot_means(
    axis: Axes, rows: Rows, x: str, y: str, *, by: str = "", scale: float = 1, point: str = "o", **style: Any
) -> None:
    # a line through the means of the groups of equal `by` (default: x); a single group is drawn as `point`
    groups = _group_by(rows, by or x).values()
    x_means, y_means = (np.array([_mean(group, name) for group in groups]) for name in (x, y))
    axis.plot(x_means, scale * y_means, point if len(groups) == 1 else "o-", **style)


@contextmanager
def _chart(path: Path, titles: Sequence[str], x_label: str, y_label: str) -> Iterator[dict[str, Axes]]:
    # panels by title, with one legend below all
    with extra("tune"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    columns = min(4, len(titles))
    rows = -(-len(titles) // columns)
    size = (7, 4.2) if len(titles) == 1 else (3.4 * columns, 3 * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[len(titles) :]:
        unused.set_visible(False)
    panels = dict(zip(titles, axes, strict=False))
    for axis in panels.values():
        axis.set_prop_cycle(color=COLOURS)
    yield panels
    for title, axis in panels.items():
        axis.set_title(title, loc="left", color=INK, fontsize=10)
        axis.set_xlabel(x_label, fontsize=9)
        axis.set_ylabel(y_label, fontsize=9)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    with rc_context({"svg.hashsalt": HASH_SALT}):
        figure.savefig(path, format="svg", metadata={"Date": None})
