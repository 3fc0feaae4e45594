"""Tables of the paper's experiment: cascades of complete models beside early exits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from statistics import mean
from typing import Any

from table_cells import ROOT, TASKS, load, percent


def paper_table(study: str = "paper", baselines: str = "strengthened") -> str:
    """Every cascade against the best early exit, relative to the latter's mean over tasks."""
    found = comparisons(study, baselines)
    places = list(dict.fromkeys((one["basis"], one["target"]) for one in found))
    best = {(one["basis"], one["target"]): one["best_early_exit"] for one in found}
    heads = [f"{target:g}x {basis}, over {best[basis, target]}" for basis, target in places]
    lines = [f"| cascade | {' | '.join(heads)} |", "|" + "---|" * (1 + len(places))]
    for name in dict.fromkeys(one["cascade"] for one in found):
        cells = []
        for place in places:
            (one,) = (r for r in found if (r["cascade"], r["basis"], r["target"]) == (name, *place))
            cells.append(gain_cell(one))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def comparisons(study: str, baselines: str) -> list[dict[str, Any]]:
    """The lines of a study's summary against the early exits as published, or against all of them."""
    found = load(f"{study}/summary.json")["comparisons"]
    return [one for one in found if one["baselines"] == baselines]


def gain_cell(one: Mapping[str, Any]) -> str:
    """A relative improvement with its interval, then the chance-corrected one with its own."""
    kinds = (
        ("relative_improvement", "ci_low", "ci_high"),
        ("chance_corrected", "chance_ci_low", "chance_ci_high"),
    )
    if one["relative_improvement"] is None:
        return "n/a"
    cells = []
    for names in kinds:
        gain, low, high = ("n/a" if one[n] is None else f"{100 * one[n]:+.1f}" for n in names)
        cells.append(f"{gain} % ({low} to {high})")
    return "; ".join(cells)


def paper_headline_table(study: str = "paper", baselines: str = "strengthened") -> str:
    """At each target the cascade that was best on tune rows, the best early exit, and what lies between."""
    found, more = comparisons(study, baselines), load(f"{study}/analyses.json")
    runs = all_runs(study)
    large = mean(more["large"].values())
    lines = [
        "| at equal | cascade | mean score | early exit | mean score | improvement | from chance |",
        "|" + "---|" * 7,
    ]
    for one in more["picked"]:
        where = {key: one[key] for key in ("basis", "target", "cascade")}
        (row,) = (r for r in found if all(r[key] == value for key, value in where.items()))
        ours, theirs = (
            mean(
                run["score"]
                for run in runs
                if (run["method"], run["basis"], run["target"]) == (name, one["basis"], one["target"])
            )
            for name in (one["cascade"], row["best_early_exit"])
        )
        gains = gain_cell(row).replace("; ", " | ")
        place = f"{one['target']:g}x {one['basis']} | {one['cascade']} | {100 * ours:.1f}"
        lines.append(f"| {place} | {row['best_early_exit']} | {100 * theirs:.1f} | {gains} |")
    lines += ["", f"The large model's mean score is {100 * large:.1f}."]
    return "\n".join(lines)


def all_runs(study: str) -> list[dict[str, Any]]:
    """The lines of runs.jsonl of a study."""
    text = (ROOT / "results" / study / "runs.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def paper_scores_table(study: str = "paper", basis: str = "flops", target: float = 4.0) -> str:
    """Score of every method on every task at one target, mean over seeds; a tilde marks mixtures."""
    runs = [run for run in all_runs(study) if run["basis"] == basis and run["target"] in (1.0, target)]
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    heads = " | ".join(TASKS.get(task, task) for task in tasks)
    lines = [f"| method | {heads} | mean | achieved |", "|" + "---|" * (3 + len(tasks))]
    for method in sorted({run["method"] for run in runs}):
        mine = [run for run in runs if run["method"] == method]
        each = [[run for run in mine if run["task"] == task] for task in tasks]
        means = [mean(run["score"] for run in one) for one in each]
        marks = ["~" if any(run["interpolated"] for run in one) else "" for one in each]
        cells = [f"{mark}{100 * one:.1f}" for mark, one in zip(marks, means, strict=True)]
        speeds = [run["achieved"] for run in mine]
        figures = [*cells, f"{100 * mean(means):.1f}", f"{min(speeds):.2f}x to {max(speeds):.2f}x"]
        lines.append(f"| {method} | {' | '.join(figures)} |")
    return "\n".join(lines)


def paper_dar_table(study: str = "paper") -> str:
    """What the difficulty-aware term does to the small stage by itself."""
    found = load(f"{study}/summary.json")["dar"]
    metrics = list(dict.fromkeys(one["metric"] for one in found))
    heads = " | ".join("accuracy" if one == "accuracy" else one.upper() for one in metrics)
    lines = [f"| task | {heads} |", "|" + "---|" * (1 + len(metrics))]
    for task in dict.fromkeys(one["task"] for one in found):
        cells = [interval_cell(one) for one in found if one["task"] == task]
        lines.append(f"| {TASKS.get(task, task)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def paper_shallow_table(study: str = "paper") -> str:
    """A complete model on exactly the rows that an early exit of its cost leaves, weighted by rows."""
    found = load(f"{study}/analyses.json")["complete_against_shallow"]
    lines = ["| early exit | target | layer | complete model | texts | exit | complete |", "|" + "---|" * 7]
    keys = ("method", "target", "layer", "complete")
    for key in dict.fromkeys(tuple(one[name] for name in keys) for one in found):
        same = [one for one in found if tuple(one[name] for name in keys) == key]
        rows = sum(one["rows"] for one in same)
        shares = [
            sum(one["rows"] * one[name] for one in same) / rows
            for name in ("exit_accuracy", "complete_accuracy")
        ]
        cells = f"{rows:,} | {percent(shares[0])} | {percent(shares[1])}"
        lines.append(f"| {key[0]} | {key[1]:g}x | {key[2]} | {key[3]} | {cells} |")
    return "\n".join(lines)


def interval_cell(one: Mapping[str, Any]) -> str:
    """A difference with its interval, or that there is none."""
    if one["delta"] is None or one["ci_low"] is None:
        return "n/a"
    return f"{one['delta']:+.3f} ({one['ci_low']:+.3f} to {one['ci_high']:+.3f})"
