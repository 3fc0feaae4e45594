"""The model card of a saved cascade: its README.md."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cascadebert.persistence.schema import CascadeSpec, MeasuredTiming
from cascadebert.thresholds.operating_point import TuningMetrics
from cascadebert.types import Report

MAX_LABELS = 20
TEXT_LENGTH = np.array(32)  # tokens of the texts whose rate is shown

_HEAD = """---
library_name: cascadebert
pipeline_tag: text-classification
tags:
- cascadebert
- text-classification
- dynamic-inference
---

# A cascade of {count} complete classifiers

Confident predictions exit at the first stage; only the other texts are deferred to the next
([CascadeBERT](https://arxiv.org/abs/2012.14682)). Labels: {labels}.

```python
from cascadebert import Cascade

cascade = Cascade.from_pretrained("path/or/repository")
print(cascade.predict(["..."]).labels)
```

Each `stage-*` folder also opens alone with `transformers`.

## Stages
"""


def render_card(spec: CascadeSpec) -> str:
    """The text of the card: the stages, the measurements, and the examples they were made on."""
    names = spec.label_names[:MAX_LABELS]
    omitted = len(spec.label_names) - len(names)
    labels = ", ".join(names) + (f" and {omitted} more" if omitted else "")
    limits = [*(f"{threshold:.4f}" for threshold in spec.operating_point.thresholds), "always"]
    stages = [
        (number, stage.name, stage.layers, stage.hidden, f"{stage.temperature:.3f}", limit)
        for number, (stage, limit) in enumerate(zip(spec.stages, limits, strict=True), start=1)
    ]
    header = ("stage", "made from", "layers", "width", "temperature", "exits above")
    blocks = [_HEAD.format(count=len(spec.stages), labels=labels), _table(header, stages)]
    if spec.measured is not None:
        blocks.append(_measured(spec.measured, spec.timing))
    if spec.operating_point.metrics is not None:
        blocks.append(_expected(spec.operating_point.metrics))
    return "\n".join([*blocks, _thresholds(spec)])


def _table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _measured(report: Report, timing: MeasuredTiming | None) -> str:
    rates, speedup, note = [""] * len(report.stages), "", ""
    if timing is not None:
        models = zip(timing.stages, timing.tokenising, strict=True)
        costs = [float(model.cost_of(TEXT_LENGTH) + tokens.cost_of(TEXT_LENGTH)) for model, tokens in models]
        rates = [f"{1 / cost:,.0f}" for cost in costs]
        speedup = f"{timing.expected_speedup:.2f}x the last stage's, expected"
        note = f"\ntexts/s: {timing.machine}; they do not carry over to other machines.\n"
    rows = [
        (f"stage {number} alone", f"{stage.accuracy:.4f}", f"{stage.ece:.4f}", "100 %", "", "", rate)
        for number, (stage, rate) in enumerate(zip(report.stages, rates, strict=True), start=1)
    ]
    exits = " / ".join(f"{100 * rate:.1f} %" for rate in report.exit_rates)
    gains = ["n/a" if x is None else f"{x:.2f}x" for x in (report.layers_speedup, report.flops_speedup)]
    rows.append(("cascade", f"{report.accuracy:.4f}", f"{report.ece:.4f}", exits, *gains, speedup))
    header = (
        "",
        "accuracy",
        "ECE",
        "exit rates",
        "layers speed-up",
        "FLOPs speed-up",
        "texts/s of 32 tokens",
    )
    return (
        f"## Measured\n\nOn the {report.n:,} examples that thresholds were selected on, so with a slight "
        f"optimistic bias.\n\n{_table(header, rows)}{note}"
    )


def _expected(metrics: TuningMetrics) -> str:
    unseen = ""
    if metrics.cross_validated is not None:
        unseen = f" ({metrics.cross_validated:.4f} in cross-validation of the thresholds)"
    notices = "".join(f"- {notice}\n" for notice in metrics.notices)
    return (
        f"Expected: {metrics.metric} {metrics.value:.4f}{unseen} (last stage alone {metrics.last_stage:.4f}) "
        f"at {metrics.speedup:.2f}x by {metrics.cost_unit}, n = {metrics.n:,}.\n\n{notices}"
    )


def _thresholds(spec: CascadeSpec) -> str:
    tuned, certificate = spec.tuned_on, spec.operating_point.certificate
    if tuned is None:
        return "Thresholds were set by hand: their accuracy and cost are not known.\n"
    certified = "No certificate: measurements may differ on other data."
    if certificate is not None:
        guarantees = "; ".join(result.guarantee.description for result in certificate.guarantees)
        certified = (
            f"Certified on {certificate.n:,} other examples at a confidence level of "
            f"{100 * (1 - certificate.delta):g} %: {guarantees}, on new data drawn like those examples, with "
            "this engine and precision."
        )
    return (
        f"Thresholds were selected with the {tuned.engine} engine in {tuned.precision} on examples of "
        f"`{tuned.source}` (sha256 `{tuned.data_sha256[:12]}`). {certified}\n"
    )
