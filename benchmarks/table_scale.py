"""What a very large job takes, from the measured speed of one machine; and what a cluster was seen to do."""

from __future__ import annotations

from typing import Any

from table_cells import TASKS, load, origin

MANY = 1_000_000_000  # rows
SHOWN = {"sst2": "short texts", "imdb": "long texts"}


def many_rows_table() -> str:
    """Hours of one machine for a billion rows, and machines that do them in a day."""
    found = load("inference/tasks.json")
    lines = [
        "| texts | predictor | texts/s | hours of one machine | machines for one day |",
        "|" + "---|" * 5,
    ]
    for task, kind in SHOWN.items():
        bench = found["tasks"][task]["bench"]
        pipeline = next(other for other in bench["others"] if other["name"].endswith("pipeline, batch 32"))
        predictors = {
            "cascade": bench["cascade"],
            "its last stage": bench["last_stage"],
            "`transformers.pipeline`, batch 32": pipeline,
        }
        for name, one in predictors.items():
            rate = one["examples_per_second"]
            hours = MANY / rate / 3600
            machines = -(-hours // 24)
            lines.append(
                f"| {kind} ({TASKS[task]}) | {name} | {rate:,.0f} | {hours:,.0f} | {machines:,.0f} |"
            )
    return "\n".join([*lines, "", origin(found)])


def cluster_table() -> str:
    """Speed of a cluster on one machine, what was lost when something died, and the size of the image."""
    found = load("scale/summary.json")
    slow = found["slow_last_stage"]
    carried = " and ".join(f"{one['carried_mb']:.0f}" for one in slow)
    most = " and ".join(f"{one['most_mb']:.0f}" for one in slow)
    busy = " and ".join(f"{min(100, 100 * one['busy']):.0f}" for one in slow)
    serve, image, low = found["serve_kill"], found["container"], found["range"]
    rerun = "the bytes of another" if found["driver_rerun_equal"] else "differs"
    rows = {
        f"speed of two nodes on the two cores of one machine, over one process, {found['rows']:,} rows": (
            f"{found['ray_vs_single']:.2f}x ({low[0]:.2f} to {low[1]:.2f})"
        ),
        "rows lost, doubled, wrong: all actors killed": _losses(found["killed_actor"]),
        "rows lost, doubled, wrong: a node killed": _losses(found["killed_node"]),
        "output of a run whose driver was killed and started again": rerun,
        "outputs of three shards end to end": "the bytes of one run" if found["shards_equal"] else "differ",
        f"{serve['requests']:,} requests to Ray Serve while a replica of the last stage is killed": (
            f"{serve['wrong']} wrong, {serve['failed']} failed ({serve['failed_but_503']} without a 503)"
        ),
        f"a slow last stage, {carried} MB through it: most memory of objects, and how busy it was": (
            f"{most} MB, {busy} %"
        ),
        "image of `deploy/Dockerfile` (its steps on a Debian), without a cascade": (
            f"{image['image_mb']} MB, {image['base_mb']} of them the base"
        ),
    }
    lines = ["| what | result |", "|---|---|", *(f"| {what} | {result} |" for what, result in rows.items())]
    return "\n".join([*lines, "", origin(found)])


def _losses(found: dict[str, Any]) -> str:
    return f"{found['lost']}, {found['doubled']}, {found['wrong']}"
