"""What a very large job takes: from the measured speed of one machine."""

from __future__ import annotations

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
