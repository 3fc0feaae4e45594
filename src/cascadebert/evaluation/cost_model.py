"""What one row costs at each stage: layers, floating-point operations, or seconds on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.stage import Stage
from cascadebert.timing import interleaved
from cascadebert.types import Floats, Ints, LinearLatency, Texts

TIMED_ROWS = 1024
TIMED_GROUPS = 3
TIMED_REPEATS = 3


@dataclass(frozen=True)
class RowCosts:
    """What rows cost, in one unit.

    Attributes:
        rows: (num_stages, n) added by each stage that a row reaches.
        last_stage_cost: mean cost of a row when the last stage runs by itself.
    """

    rows: Floats
    last_stage_cost: float


@dataclass(frozen=True)
class LatencyModel:
    """Seconds on this machine, fitted to a few timed rows.

    Attributes:
        stages: one per stage, of the model alone, by padded tokens.
        tokenising: one per stage, by tokens; the same value for stages that share a tokenizer.
        keys: one per stage, which tokenizer it has.
    """

    stages: tuple[LinearLatency, ...]
    tokenising: tuple[LinearLatency, ...]
    keys: tuple[str, ...]

    def costs(self, encoded: Sequence[TokenizedTexts]) -> RowCosts:
        """Of the given rows; a tokenizer is paid once, by the first stage that has it.

        Args:
            encoded: each stage's tokens of the same n rows.
        """
        added = []
        for i, rows in enumerate(encoded):
            one = self.stages[i].cost_of(rows.padded_lengths)
            added.append(
                one if self.keys[i] in self.keys[:i] else one + self.tokenising[i].cost_of(rows.lengths)
            )
        last = encoded[-1]
        alone = self.stages[-1].cost_of(last.padded_lengths) + self.tokenising[-1].cost_of(last.lengths)
        return RowCosts(np.stack(added), float(alone.mean()))


def counted_costs(
    stages: Sequence[Stage], encoded: Sequence[TokenizedTexts], cost_unit: Literal["layers", "flops"]
) -> RowCosts:
    """What rows cost by counting.

    Args:
        stages: the stages.
        encoded: each stage's tokens of the same n rows.
        cost_unit: the unit. Operations count padded tokens, as they are computed.

    Raises:
        CascadeError: for layers where the stages' widths differ, or operations that are not known.
    """
    if cost_unit == "layers":
        if len({stage.hidden for stage in stages}) > 1 or not all(stage.layers for stage in stages):
            sizes = ", ".join(f"{stage.layers} x {stage.hidden}" for stage in stages)
            raise CascadeError(
                f"layers do not compare stages of different widths, or without layers ({sizes}). Use --cost-unit "
                "flops or measured."
            )
        layers = np.array([[stage.layers] for stage in stages], dtype=np.float64)
        counted = np.repeat(layers, len(encoded[0]), axis=1)
    else:
        counted = np.stack([_flops(stage, rows) for stage, rows in zip(stages, encoded, strict=True)])
    return RowCosts(counted, float(counted[-1].mean()))


def measure_latency(stages: Sequence[Stage], texts: Texts, encoded: Sequence[TokenizedTexts]) -> LatencyModel:
    """Time up to 1,024 of the rows, short, middling and long ones apart, all stages in turn.

    Args:
        stages: the stages.
        texts: n texts or pairs.
        encoded: each stage's tokens of them.
    """
    some = np.linspace(0, len(texts) - 1, min(len(texts), TIMED_ROWS)).astype(np.int64)
    some = some[np.argsort(encoded[-1].lengths[some], kind="stable")]
    groups = [group for group in np.array_split(some, TIMED_GROUPS) if len(group)]
    pieces = [[texts[i] for i in group] for group in groups]
    encoders = {stage.tokenizer.key: stage.encode for stage in stages}
    runs: list[Callable[[], object]] = []
    for stage, rows in zip(stages, encoded, strict=True):
        runs += [partial(stage.logits, rows, group) for group in groups]
    for tokenise in encoders.values():
        runs += [partial(tokenise, piece) for piece in pieces]
    seconds = np.median(interleaved(runs, repeats=TIMED_REPEATS), axis=1).reshape(-1, len(groups))
    keys = tuple(stage.tokenizer.key for stage in stages)
    models, tokenising = [], []
    for key, rows, taken in zip(keys, encoded, seconds, strict=False):
        models.append(fit_latency(rows.padded_lengths, groups, taken))
        place = len(stages) + list(encoders).index(key)
        tokenising.append(fit_latency(rows.lengths, groups, seconds[place]))
    return LatencyModel(tuple(models), tuple(tokenising), keys)


def fit_latency(lengths: Ints, groups: Sequence[Ints], seconds: Floats) -> LinearLatency:
    """Least squares of seconds on rows and tokens, neither below 0.

    Args:
        lengths: (n,) tokens of all rows.
        groups: the rows that were timed together.
        seconds: (groups,) that each took.
    """
    amounts = np.array([[len(group), lengths[group].sum()] for group in groups], dtype=np.float64)
    row, token = np.linalg.lstsq(amounts, seconds, rcond=None)[0]
    if row < 0:
        row, token = 0.0, seconds.sum() / amounts[:, 1].sum()
    elif token < 0:
        row, token = seconds.sum() / amounts[:, 0].sum(), 0.0
    return LinearLatency(float(row), float(token))


def _flops(stage: Stage, rows: TokenizedTexts) -> Floats:
    if stage.flops is None:
        raise CascadeError(
            f"the operations of {stage.name} are not known. Use --cost-unit layers or measured."
        )
    return stage.flops.cost_of(rows.padded_lengths)
