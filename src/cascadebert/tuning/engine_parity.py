"""Parity test of an engine and precision against torch in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cascadebert.errors import MissingExtra, StageError
from cascadebert.inference.engines.load import load_engine
from cascadebert.inference.stage import Stage
from cascadebert.types import Logits, Texts

MAX_COMPARED = 1000
MAX_CHANGED_FRACTION, MAX_CHANGED = 0.005, 2


def check_engine_parity(stages: Sequence[Stage], texts: Texts, logits: Logits) -> tuple[str, ...]:
    """Check that (num_stages, n, num_labels) logits of the stages' engine give the labels of torch float32.

    At most 1,000 of the n texts are compared. Returns a notice if torch is not installed. Raises StageError
    if the label of a stage changes on more than 0.5 % of the compared texts, and on more than 2.
    """
    engine = stages[-1].engine
    if (engine.name, engine.precision) == ("torch", "float32"):
        return ()
    sample = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), MAX_COMPARED)).astype(np.int64))
    compared = [texts[i] for i in sample]
    for number, (stage, stage_logits) in enumerate(zip(stages, logits, strict=True), start=1):
        try:
            reference = replace(stage, engine=load_engine(stage.path, engine="torch", precision="float32"))
        except MissingExtra:
            return ("labels were not compared with torch in float32, which is not installed.",)
        expected = reference.logits(reference.encode(compared)).argmax(axis=1)
        changed = int((expected != stage_logits[sample].argmax(axis=1)).sum())
        if changed > max(MAX_CHANGED, MAX_CHANGED_FRACTION * len(sample)):
            raise StageError(
                f"{engine.name} {engine.precision} changes the label of {changed:,} of {len(sample):,} "
                f"tuning examples at stage {number} ({stage.name}) compared with torch float32; at most "
                f"{100 * MAX_CHANGED_FRACTION:g} %, or {MAX_CHANGED} examples, are allowed. Choose another "
                "--precision or --engine."
            )
    return ()
