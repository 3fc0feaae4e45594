"""Whether an engine and precision give the labels that torch gives in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cascadebert.errors import MissingExtra, StageError
from cascadebert.inference.engines.load import load_engine
from cascadebert.inference.stage import Stage
from cascadebert.types import Logits, Texts

COMPARED_ROWS = 1000
MOST_CHANGED, FEW_CHANGED = 0.005, 2


def check_engine_parity(stages: Sequence[Stage], texts: Texts, logits: Logits) -> tuple[str, ...]:
    """Refuse an engine or precision whose labels are not those of torch in float32.

    Args:
        stages: on the engine that will run them.
        texts: n rows, of which up to 1,000 are compared.
        logits: (num_stages, n, num_labels) of theirs.

    Returns:
        What must be said: where torch is not installed, that nothing was compared.

    Raises:
        StageError: if a stage's label changes on more than 0.5 % of the rows compared, and on more than 2.
    """
    engine = stages[-1].engine
    if (engine.name, engine.precision) == ("torch", "float32"):
        return ()
    some = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), COMPARED_ROWS)).astype(np.int64))
    compared = [texts[i] for i in some]
    for number, (stage, found) in enumerate(zip(stages, logits, strict=True), start=1):
        try:
            plain = replace(stage, engine=load_engine(stage.path, engine="torch", precision="float32"))
        except MissingExtra:
            return ("labels were not compared with torch in float32, which is not installed.",)
        wanted = plain.logits(plain.encode(compared))
        changed = int((wanted.argmax(axis=1) != found[some].argmax(axis=1)).sum())
        if changed > max(FEW_CHANGED, MOST_CHANGED * len(some)):
            raise StageError(
                f"{engine.name} {engine.precision} changes the label of {changed:,} of {len(some):,} tune "
                f"rows at stage {number} ({stage.name}) against torch float32; {100 * MOST_CHANGED:g} %, or "
                f"{FEW_CHANGED} rows, are allowed. Choose another --precision or --engine."
            )
    return ()
