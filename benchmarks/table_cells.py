"""What the tables share: result files, names of tasks, figures in cells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TASKS = {
    "sst2": "SST-2", "mrpc": "MRPC", "rte": "RTE", "cola": "CoLA", "agnews": "AG News",
    "clinc150": "CLINC150", "imdb": "IMDB", "qnli": "QNLI", "qqp": "QQP", "mnli": "MNLI",
}  # fmt: skip


def load(name: str) -> dict[str, Any]:
    """One result file."""
    found: dict[str, Any] = json.loads((ROOT / "results" / name).read_text("utf-8"))
    return found


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Mean, lowest and highest."""
    found = list(values)
    return f"{mean(found):.{digits}f} ({min(found):.{digits}f} to {max(found):.{digits}f})"


def origin(found: Mapping[str, Any]) -> str:
    """Where a result file comes from."""
    sets = found.get("instruction_sets")
    processor = f"{found['machine']} ({', '.join(sets)})" if sets else found["machine"]
    return f"{processor}; commit `{found['commit'][:12]}`, {found['date'][:10]}."


def percent(share: float) -> str:
    """A share with one decimal."""
    return f"{100 * share:.1f} %"
