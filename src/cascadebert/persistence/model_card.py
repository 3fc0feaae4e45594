"""The model card of a saved cascade: its README.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.data.labels import shorten
from cascadebert.persistence.schema import CascadeSpec

# a paragraph behind a comment of one word belongs to the card if the value of that name is known
TEMPLATE = Path(__file__).with_suffix(".md")


def render_card(spec: CascadeSpec) -> str:
    """The text of the card: the stages, the measurements, and the examples they were made on."""
    values = _values(spec)
    card, *conditional = re.split(r"<!-- (\w+) -->\n", TEMPLATE.read_text("utf-8"))
    for name, paragraph in zip(conditional[::2], conditional[1::2], strict=True):
        card += paragraph if values.get(name) else ""
    return card.format(**values).rstrip() + "\n"


def _stage_columns(spec: CascadeSpec) -> dict[str, Sequence[object]]:
    stages, report, timing = spec.stages, spec.measured, spec.timing
    columns: dict[str, Sequence[object]] = {
        "stage": range(1, len(stages) + 1),
        "made from": [stage.name for stage in stages],
        "layers": [stage.layers for stage in stages],
        "width": [stage.hidden for stage in stages],
        "temperature": [f"{stage.temperature:.3f}" for stage in stages],
        "exits above": [*(f"{threshold:.4f}" for threshold in spec.operating_point.thresholds), "always"],
    }
    if report is not None:
        columns["exit rate"] = [f"{100 * rate:.1f} %" for rate in report.exit_rates]
        columns["accuracy alone"] = [f"{stage.accuracy:.4f}" for stage in report.stages]
        columns["ECE alone"] = [f"{stage.ece:.4f}" for stage in report.stages]
    if timing is not None:
        length, latencies = np.array(32), zip(timing.stages, timing.tokenizing, strict=True)
        seconds = [float(model.cost_of(length) + tokens.cost_of(length)) for model, tokens in latencies]
        columns["texts/s of 32 tokens"] = [f"{1 / cost:,.0f}" for cost in seconds]
    return columns


def _values(spec: CascadeSpec) -> dict[str, Any]:
    names, columns = spec.label_names, _stage_columns(spec)
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    report, metrics = spec.measured, spec.operating_point.metrics
    certificate = spec.operating_point.certificate
    values: dict[str, Any] = {**vars(spec), "metrics": metrics, "certificate": certificate}
    values["count"], values["labels"] = len(spec.stages), shorten(names, most=20)
    values["table"] = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    values["by_hand"] = spec.tuned_on is None
    values["uncertified"] = spec.tuned_on is not None and certificate is None
    if report is not None:
        for name in ("layers_speedup", "flops_speedup"):
            gain = getattr(report, name)
            values[name] = "n/a" if gain is None else f"{gain:.2f}x"
    if metrics is not None:
        values["cross_validated"] = metrics.cross_validated
        values["notices"] = "\n".join(f"- {notice}" for notice in metrics.notices)
    if certificate is not None:
        values["confidence_level"] = 100 * (1 - certificate.delta)
        values["guarantees"] = "; ".join(result.guarantee.description for result in certificate.guarantees)
    return values
