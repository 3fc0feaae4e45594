"""Tables of what different processors do: every engine and precision, and `predict` on a large file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from table_cells import ROOT, TASKS, load, origin, percent

ENGINES = (
    ("torch", "bfloat16"), ("onnxruntime", "float32"), ("onnxruntime", "int8"),
    ("openvino", "float32"), ("openvino", "bfloat16"), ("openvino", "int8"),
)  # fmt: skip
ENOUGH = 0.995  # of labels equal to torch's in float32
Rows = dict[tuple[str, str], dict[str, Any]]  # by engine and precision


def processors_table() -> str:
    """Speed of every engine over torch in float32 on each processor, and the one to take."""
    names = " | ".join(" ".join(one) for one in ENGINES)
    lines = [f"| processor | model | torch float32, ms | {names} | fastest that keeps labels |"]
    lines.append("|" + "---|" * (len(ENGINES) + 4))
    for file in _files():
        found = json.loads(file.read_text("utf-8"))
        for model in dict.fromkeys(row["model"] for row in found["rows"]):
            rows = {(one["engine"], one["precision"]): one for one in found["rows"] if one["model"] == model}
            cells = " | ".join(_speed(rows.get(engine)) for engine in ENGINES)
            slowest = rows["torch", "float32"]["ms"]
            lines.append(
                f"| {_processor(found)} | {model} | {slowest:.0f} | {cells} | {_best(rows, found)} |"
            )
    return "\n".join(lines)


def fastest_table() -> str:
    """The fastest engine and precision of each processor and model, and what share of labels it keeps."""
    lines = ["| processor | model (layers, width) | fastest | over torch, float32 | labels kept |"]
    lines.append("|" + "---|" * 5)
    for file in _files():
        found = json.loads(file.read_text("utf-8"))
        for model in dict.fromkeys(row["model"] for row in found["rows"]):
            best = max(
                (row for row in found["rows"] if row["model"] == model),
                key=lambda row: float(row["over_torch_fp32"]),
            )
            shares = list((best["labels_equal"] or {}).values())
            kept = f"{percent(min(shares))} to {percent(max(shares))}" if shares else ""
            size = model.replace("L", "").replace("-H", " x ")
            over = f"{best['over_torch_fp32']:.2f}x"
            lines.append(
                f"| {_processor(found)} | {size} | {best['engine']} {best['precision']} | {over} | {kept} |"
            )
    return "\n".join(lines)


def _processor(found: dict[str, Any]) -> str:
    if found["limited_to"]:
        return f"the same as {found['limited_to'].replace('_', ' ')}"
    return f"{found['processor'].split(',')[0]} ({', '.join(found['isa'])})"


def _speed(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['over_torch_fp32']:.2f}x"


def _best(rows: Rows, found: Mapping[str, Any]) -> str:
    """The fastest that keeps the labels of every task and model that were compared on this processor."""
    keeps = [row for name, row in rows.items() if name[1] == "float32" or _least_kept(name, found) >= ENOUGH]
    best = max(keeps, key=lambda row: float(row["over_torch_fp32"]))
    return f"{best['engine']} {best['precision']}, {best['over_torch_fp32']:.2f}x"


def _least_kept(name: tuple[str, str], found: Mapping[str, Any]) -> float:
    same = [row for row in found["rows"] if (row["engine"], row["precision"]) == name]
    return min((share for row in same for share in (row["labels_equal"] or {}).values()), default=0.0)


def processor_labels_table() -> str:
    """Share of labels equal to those of torch in float32, for each task."""
    rows = [
        (_processor(found), row)
        for found in map(json.loads, (file.read_text("utf-8") for file in _files()))
        for row in found["rows"]
        if row["labels_equal"]
    ]
    tasks = list(dict.fromkeys(task for _, row in rows for task in row["labels_equal"]))
    lines = [f"| processor | model | engine | {' | '.join(TASKS[task] for task in tasks)} |"]
    lines.append("|" + "---|" * (len(tasks) + 3))
    for processor, row in rows:
        shares = row["labels_equal"]
        cells = " | ".join(percent(shares[task]) if task in shares else "" for task in tasks)
        lines.append(f"| {processor} | {row['model']} | {row['engine']} {row['precision']} | {cells} |")
    return "\n".join(lines)


def _files() -> list[Path]:
    return sorted((ROOT / "results" / "inference" / "processors").glob("*.json"))


def end_to_end_table() -> str:
    """Seconds of each part of predicting a large file, now and before."""
    found = load("inference/end_to_end.json")
    parts = [*found["before"], "other"]
    before = {**found["before"], "other": median(found["whole"]["before"]) - sum(found["before"].values())}
    lines = [f"| | {' | '.join(parts)} | whole |", "|" + "---|" * (len(parts) + 2)]
    for name, seconds in (("before", before), ("now", found["seconds"])):
        cells = " | ".join(f"{seconds[part]:.1f}" for part in parts)
        lines.append(f"| {name} ({found['engines'][name]}) | {cells} | {median(found['whole'][name]):.1f} |")
    return "\n".join([*lines, "", f"{found['over_before']:.2f}x. {origin(found)}"])
