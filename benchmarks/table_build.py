"""Tables of `build`: cascades before a fine-tuned all-mpnet-base-v2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from table_cells import TASKS, load, origin, percent

NOTHING = "does not pay"


def build_table() -> str:
    """The cascade of each task for half a point of accuracy, against the classifier and its pipeline."""
    found = load("build/summary.json")
    lines = [
        "| task (test examples) | stages | exits per stage | lost, 95 % interval | over the classifier "
        "| over `transformers.pipeline`, batch 32 | the same prediction | minutes |",
        "|" + "---|" * 8,
    ]
    for task, one in found["tasks"].items():
        lines.append(f"| {TASKS[task]} | {_cascade(one)} | {one['minutes']:.0f} |")
    mean = found["mean"]
    lines.append(
        f"| mean | | | {100 * mean['lost']:+.1f} | {mean['over_model']:.1f}x | {mean['over_pipeline']:.1f}x "
        f"| {percent(mean['agreement'])} | |"
    )
    return "\n".join([*lines, "", origin(found)])


def build_variants_table() -> str:
    """The same without labels, for certified agreement, and without a small model given."""
    found = load("build/summary.json")
    lines = [
        "| task | | stages | exits per stage | lost, 95 % interval | over the classifier "
        "| over `transformers.pipeline`, batch 32 | the same prediction | certified | share of oracle |",
        "|" + "---|" * 10,
    ]
    for task, one in found["tasks"].items():
        variants = {"labels": one, "no labels": one["unlabeled"], "no small model": one["without_small"]}
        for name, variant in variants.items():
            cells = f"{_certified(variant)} | {variant.get('oracle_share', 1):.2f}"
            lines.append(f"| {TASKS[task]} | {name} | {_cascade(variant)} | {cells} |")
    return "\n".join([*lines, "", origin(found)])


def _cascade(one: Mapping[str, Any]) -> str:
    """Cells of a cascade: stages, exits, accuracy lost, speed-ups and agreement."""
    if not one["pays"]:
        return f"{NOTHING} | | | 1x | | "
    low, high = (100 * bound for bound in one["lost_ci"])
    slow, fast = one["over_model_range"]
    rates = " / ".join(f"{100 * rate:.0f}" for rate in one["exit_rates"])
    return (
        f"{', '.join(one['stages'])} | {rates} % | {100 * one['lost']:+.1f} ({low:+.1f} to {high:+.1f}) "
        f"| {one['over_model']:.2f}x ({slow:.2f} to {fast:.2f}) | {one['over_pipeline']:.1f}x "
        f"| {percent(one['agreement'])}"
    )


def _certified(one: Mapping[str, Any]) -> str:
    if not one["pays"]:
        return ""
    return one["certified"]["guarantee"] or "no"
