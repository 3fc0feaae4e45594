"""The model card of a saved cascade: its README.md."""

from __future__ import annotations

import numpy as np

from cascadebert.persistence.schema import CascadeSpec
from cascadebert.thresholds.operating_point import OperatingPoint, TuningMetrics
from cascadebert.types import Report

_HEAD = """---
library_name: cascadebert
pipeline_tag: text-classification
tags:
- cascadebert
- text-classification
- dynamic-inference
---

# A cascade of {count} complete classifiers

The first stage answers the rows it is sure of; only the others go on to the next
([CascadeBERT](https://arxiv.org/abs/2012.14682)). Labels: {labels}.

```python
from cascadebert import Cascade

cascade = Cascade.from_pretrained("path/or/repository")
print(cascade.predict(["..."]).labels)
```

Each `stage-*` folder also opens alone with `transformers`.
"""


def render_card(spec: CascadeSpec) -> str:
    """The text of the card: what the cascade is made of and what was measured, and on which rows."""
    names = spec.label_names
    labels = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    blocks = [_HEAD.format(count=len(spec.stages), labels=labels), _stages(spec)]
    if spec.measured is not None:
        blocks.append(_measured(spec.measured, spec))
    if spec.operating_point.metrics is not None:
        blocks.append(_expected(spec.operating_point.metrics))
    tuned = spec.tuned_on
    if tuned is None:
        blocks.append("Thresholds were set by hand: what they give is not known.\n")
        return "\n".join(blocks)
    blocks.append(
        f"Thresholds were picked with the {tuned.engine} engine in {tuned.precision} on rows of "
        f"`{tuned.source}` (sha256 `{tuned.data_sha256[:12]}`). {_certified(spec.operating_point)}\n"
    )
    return "\n".join(blocks)


def _certified(point: OperatingPoint) -> str:
    certificate = point.certificate
    if certificate is None:
        return "No certificate: what was measured on those rows may differ on yours."
    promised = "; ".join(one.guarantee.words for one in certificate.guarantees)
    return (
        f"Certified on {certificate.n:,} other rows at a confidence of {100 * (1 - certificate.delta):g} %: "
        f"{promised}, on new data drawn like those rows, with this engine and precision."
    )


def _stages(spec: CascadeSpec) -> str:
    lines = [
        "## Stages",
        "",
        "| stage | made from | layers | width | temperature | leaves above |",
        "|" + "---|" * 6,
    ]
    for number, entry in enumerate(spec.stages, start=1):
        thresholds = spec.operating_point.thresholds
        above = f"{thresholds[number - 1]:.4f}" if number <= len(thresholds) else "always"
        size = f"{entry.layers} | {entry.hidden}"
        lines.append(f"| {number} | {entry.name} | {size} | {entry.temperature:.3f} | {above} |")
    return "\n".join(lines) + "\n"


def _measured(report: Report, spec: CascadeSpec) -> str:
    lines = [
        "## Measured",
        "",
        f"On the {report.n:,} rows that thresholds were picked on, so slightly in its own favour.",
        "",
        "| | accuracy | ECE | rows answered | layers speed-up | FLOPs speed-up | texts/s of 32 tokens |",
        "|" + "---|" * 7,
    ]
    length = np.array([32])
    clock = zip(spec.timing.stages, spec.timing.tokenising, strict=True) if spec.timing else ()
    rates = [
        1 / float(model.cost_of(length)[0] + tokenising.cost_of(length)[0]) for model, tokenising in clock
    ]
    for number, stage in enumerate(report.stages, start=1):
        rate = f"{rates[number - 1]:,.0f}" if rates else ""
        lines.append(
            f"| stage {number} alone | {stage.accuracy:.4f} | {stage.ece:.4f} | 100 % | | | {rate} |"
        )
    exits = " / ".join(f"{100 * share:.1f} %" for share in report.exit_rates)
    gains = (report.layers_speedup, report.flops_speedup)
    layers, flops = (f"{gain:.2f}x" if gain is not None else "n/a" for gain in gains)
    rate = f"{spec.timing.expected_speedup:.2f}x the last stage's, expected" if spec.timing else ""
    lines.append(
        f"| cascade | {report.accuracy:.4f} | {report.ece:.4f} | {exits} | {layers} | {flops} | {rate} |"
    )
    if spec.timing:
        lines += ["", f"texts/s: {spec.timing.machine}; they do not carry over to other machines."]
    return "\n".join(lines) + "\n"


def _expected(expected: TuningMetrics) -> str:
    said = "".join(f"\n- {notice}" for notice in expected.notices)
    unseen = ""
    if expected.cross_validated is not None:
        unseen = f" ({expected.cross_validated:.4f} in cross-validation of the thresholds)"
    return (
        f"Expected: {expected.metric} {expected.value:.4f}{unseen} "
        f"(last stage alone {expected.last_stage:.4f}) at {expected.speedup:.2f}x by {expected.cost_unit}, "
        f"n = {expected.n:,}.\n{said}\n"
    )
