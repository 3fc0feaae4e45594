"""The model card of a saved cascade: its README.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cascadebert.persistence.schema import CascadeSpec

_HEAD = """---
library_name: cascadebert
pipeline_tag: text-classification
tags: [cascadebert, text-classification, dynamic-inference]
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

{table}"""

# A paragraph belongs to the card if the value of its name is known.
_PARAGRAPHS = {
    "measured": """
The cascade: accuracy {measured.accuracy:.4f}, ECE {measured.ece:.4f}, layers speed-up {layers_speedup}, FLOPs
speed-up {flops_speedup}, on the {measured.n:,} examples that thresholds were selected on, so with a slight
optimistic bias.""",
    "timing": """
Times: {timing.machine}; expected speed-up {timing.expected_speedup:.2f}x. They do not carry over to other
machines.""",
    "metrics": """
Expected: {metrics.metric} {metrics.value:.4f} (last stage alone {metrics.last_stage:.4f}) at
{metrics.speedup:.2f}x by {metrics.cost_unit}, n = {metrics.n:,}.""",
    "cross_validated": "In cross-validation of the thresholds: {metrics.metric} {cross_validated:.4f}.",
    "notices": "{notices}",
    "by_hand": "Thresholds were set by hand: their accuracy and cost are not known.",
    "tuned_on": """
Thresholds were selected with the {tuned_on.engine} engine in {tuned_on.precision} on examples of
`{tuned_on.source}` (sha256 `{tuned_on.data_sha256:.12}`).""",
    "uncertified": "No certificate: measurements may differ on other data.",
    "certificate": """
Certified on {certificate.n:,} other examples at a confidence level of {confidence_level:g} %: {guarantees},
on new data drawn like those examples, with this engine and precision.""",
}


def render_card(spec: CascadeSpec) -> str:
    """The text of the card: the stages, the measurements, and the examples they were made on."""
    names = spec.label_names
    labels = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    columns = _stage_columns(spec)
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    table = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    values = _values(spec)
    paragraphs = [text.strip().format(**values) for name, text in _PARAGRAPHS.items() if values.get(name)]
    head = _HEAD.format(count=len(spec.stages), labels=labels, table=table)
    return "\n\n".join([head, *paragraphs]) + "\n"


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
        length, latencies = np.array(32), zip(timing.stages, timing.tokenising, strict=True)
        seconds = [float(model.cost_of(length) + tokens.cost_of(length)) for model, tokens in latencies]
        columns["texts/s of 32 tokens"] = [f"{1 / cost:,.0f}" for cost in seconds]
    return columns


def _values(spec: CascadeSpec) -> dict[str, Any]:
    report, metrics = spec.measured, spec.operating_point.metrics
    certificate = spec.operating_point.certificate
    values: dict[str, Any] = {**vars(spec), "metrics": metrics, "certificate": certificate}
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
