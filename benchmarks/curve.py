"""Draw the README's curve of accuracy against time from stored predictions: results/inference/curve.svg.

Operating points are selected on held-out rows and drawn at what they give on test rows. Time is expected from
the seconds that each stage and the tokenizer took per row where the predictions were made.

python benchmarks/curve.py
"""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cascadebert.evaluation.plots import ACCENT, INK, MUTED
from cascadebert.thresholds.select import TuningArrays, cumulative_cost, exit_stages, pareto_front
from table_cells import ROOT, TASKS

SHOWN = {"agnews": ("static", "3x192", "6x384"), "clinc150": ("static", "3x192", "6x384")}
NAMES = {"static": "static embeddings", "3x192": "3 layers", "6x384": "6 layers"}


def main() -> None:
    """Draw one panel per task."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        panel(axes, task)
    with rc_context({"svg.hashsalt": "cascadebert"}):
        path = ROOT / "results" / "inference" / "curve.svg"
        figure.savefig(path, format="svg", metadata={"Date": None})


def panel(axes: Axes, task: str) -> None:
    """The cascade's curve, and each of its stages alone."""
    stored = np.load(ROOT / "results" / "trust" / "answers" / f"{task}.npz")
    chosen = [list(stored["stages"]).index(name) for name in SHOWN[task]]
    seconds = stored["seconds"][chosen]
    costs = seconds + np.array([float(stored["tokenising"]), *[0.0] * (len(chosen) - 1)])
    tune = stored["tune_confidences"][chosen].astype(float)
    wrong = stored["tune_labels"][chosen] != stored["tune_truth"]
    front = pareto_front(TuningArrays(tune, wrong, costs))
    right = stored["pool_labels"][chosen] == stored["pool_truth"]
    confidences = stored["pool_confidences"][chosen].astype(float)
    rows = np.arange(right.shape[1])
    points = []
    for thresholds in front.thresholds:
        exits = exit_stages(confidences, tuple(thresholds.tolist()))
        spent = cumulative_cost(exits, np.repeat(costs[:, None], len(rows), axis=1))
        points.append((1e6 * spent.mean(), 100 * right[exits, rows].mean()))
    axes.plot(*zip(*points, strict=True), color=ACCENT, linewidth=2, label="cascade")
    for name, own, accuracy in zip(SHOWN[task], seconds, right.mean(axis=1), strict=True):
        place = 1e6 * (own + float(stored["tokenising"])), 100 * accuracy
        axes.plot(*place, "o", color=INK)
        axes.annotate(
            NAMES[name], place, xytext=(6, -14), textcoords="offset points", color=MUTED, fontsize=9
        )
    axes.set_title(TASKS[task], loc="left", fontsize=11)
    axes.set_xlabel("microseconds per text (expected)")
    axes.set_ylabel("test accuracy, %")
    axes.margins(x=0.2, y=0.12)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")


if __name__ == "__main__":
    main()
