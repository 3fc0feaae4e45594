"""What one row costs at each stage: layers, floating-point operations, or seconds on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from cascadebert.batching import Rows
from cascadebert.errors import CascadeError
from cascadebert.stage import Stage
from cascadebert.timing import interleaved
from cascadebert.types import Cost, Floats

TIMED_ROWS = 512
TIMED_REPEATS = 3


def row_costs(stages: Sequence[Stage], encoded: Sequence[Rows], cost: Cost) -> Floats:
    """(num_stages, n) cost of each row at each stage.

    Args:
        stages: the stages.
        encoded: each stage's tokens of the same n rows.
        cost: the unit. Operations and seconds count padded tokens, as they are computed.

    Raises:
        CascadeError: for layers where the stages' widths differ, or operations that are not known.
    """
    if cost == "layers":
        if len({stage.hidden for stage in stages}) > 1:
            widths = ", ".join(str(stage.hidden) for stage in stages)
            raise CascadeError(
                f"layers do not compare stages of different widths ({widths}). Use --cost flops or measured."
            )
        layers = np.array([[stage.layers] for stage in stages], dtype=np.float64)
        return np.repeat(layers, len(encoded[0]), axis=1)
    if cost == "flops":
        return np.stack([_flops(stage, rows) for stage, rows in zip(stages, encoded, strict=True)])
    rates = seconds_per_token(stages, encoded)
    return np.stack([rate * rows.padded_lengths for rate, rows in zip(rates, encoded, strict=True)])


def seconds_per_token(stages: Sequence[Stage], encoded: Sequence[Rows]) -> list[float]:
    """Seconds of each stage per padded token, by timing up to 512 of the rows, stages in turn.

    Args:
        stages: the stages.
        encoded: each stage's tokens of the same n rows.
    """
    n = len(encoded[0])
    some = np.unique(np.linspace(0, n - 1, min(n, TIMED_ROWS)).astype(np.int64))
    runs = [partial(stage.logits, rows, some) for stage, rows in zip(stages, encoded, strict=True)]
    seconds = interleaved(runs, repeats=TIMED_REPEATS)
    return [
        float(np.median(taken)) / int(rows.padded_lengths[some].sum())
        for taken, rows in zip(seconds, encoded, strict=True)
    ]


def _flops(stage: Stage, rows: Rows) -> Floats:
    if stage.flops is None:
        raise CascadeError(f"the operations of {stage.name} are not known. Use --cost layers or measured.")
    return stage.flops.of(rows.padded_lengths)
