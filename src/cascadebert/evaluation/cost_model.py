"""Cost of a row at each stage: layers, floating-point operations, or seconds on this machine."""

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
    """Costs of n rows in one unit."""

    rows: Floats  # (num_stages, n) added by each stage that a row reaches
    last_stage_cost: float  # mean cost of a row when the last stage runs alone


@dataclass(frozen=True)
class LatencyModel:
    """Seconds per row and token on this machine, one `LinearLatency` per stage."""

    stages: tuple[LinearLatency, ...]  # of the model alone, by padded tokens
    tokenizing: tuple[LinearLatency, ...]  # by tokens; equal for stages that share a tokenizer
    keys: tuple[str, ...]  # identifies each stage's tokenizer

    def costs(self, encoded: Sequence[TokenizedTexts]) -> RowCosts:
        """Costs of n rows, given each stage's tokens; the first stage with a tokenizer pays for it."""
        model, tokenizing = self.parts(encoded)
        last_stage_cost = float((model[-1] + tokenizing[-1]).mean())
        for i, key in enumerate(self.keys):
            if key not in self.keys[:i]:
                model[i] += tokenizing[i]
        return RowCosts(model, last_stage_cost)

    def parts(self, encoded: Sequence[TokenizedTexts]) -> tuple[Floats, Floats]:
        """(num_stages, n) seconds of each stage's model alone, and of its tokenizer, given its tokens."""
        model = [t.cost_of(rows.padded_lengths) for t, rows in zip(self.stages, encoded, strict=True)]
        tokenizing = [t.cost_of(rows.lengths) for t, rows in zip(self.tokenizing, encoded, strict=True)]
        return np.stack(model), np.stack(tokenizing)


def counted_costs(
    stages: Sequence[Stage], encoded: Sequence[TokenizedTexts], cost_unit: Literal["layers", "flops"]
) -> RowCosts:
    """Costs in layers or in operations on padded tokens, given each stage's tokens of the same n rows.

    Raises CascadeError for layers where the stages' widths differ, and for operations that are not known.
    """
    if cost_unit == "layers":
        if len({stage.hidden for stage in stages}) > 1 or not all(stage.layers for stage in stages):
            sizes = ", ".join(f"{stage.layers} x {stage.hidden}" for stage in stages)
            raise CascadeError(
                "layers cannot be compared between stages of different widths or without layers (layers x "
                f"width: {sizes}). Use --cost-unit flops or measured."
            )
        layers = np.array([[stage.layers] for stage in stages], dtype=np.float64)
        costs = np.repeat(layers, len(encoded[0]), axis=1)
    else:
        costs = np.empty((len(stages), len(encoded[0])))
        for i, (stage, tokens) in enumerate(zip(stages, encoded, strict=True)):
            if stage.flops is None:
                unknown = f"the FLOPs of {stage.name} are not known"
                raise CascadeError(f"{unknown}. Use --cost-unit layers or measured.")
            costs[i] = stage.flops.cost_of(tokens.padded_lengths)
    return RowCosts(costs, float(costs[-1].mean()))


def measure_latency(stages: Sequence[Stage], texts: Texts, encoded: Sequence[TokenizedTexts]) -> LatencyModel:
    """Latency model fitted to up to 1,024 of the texts, given each stage's tokens of them.

    Short, medium and long texts are timed separately, all stages and tokenizers interleaved.
    """
    sample = np.linspace(0, len(texts) - 1, min(len(texts), TIMED_ROWS)).astype(np.int64)
    sample = sample[np.argsort(encoded[-1].lengths[sample], kind="stable")]
    groups = [group for group in np.array_split(sample, TIMED_GROUPS) if len(group)]
    encoders = {stage.tokenizer.key: stage.encode for stage in stages}
    runs: list[Callable[[], object]] = []
    for stage, tokens in zip(stages, encoded, strict=True):
        runs += [partial(stage.logits, tokens, group) for group in groups]
    for encode in encoders.values():
        runs += [partial(encode, [texts[i] for i in group]) for group in groups]
    medians = np.median(interleaved(runs, repeats=TIMED_REPEATS), axis=1).reshape(-1, len(groups))
    encode_seconds = dict(zip(encoders, medians[len(stages) :], strict=True))
    models, tokenizers = [], []
    for stage, tokens, seconds in zip(stages, encoded, medians, strict=False):
        models.append(fit_latency(tokens.padded_lengths, groups, seconds))
        tokenizers.append(fit_latency(tokens.lengths, groups, encode_seconds[stage.tokenizer.key]))
    return LatencyModel(tuple(models), tuple(tokenizers), tuple(stage.tokenizer.key for stage in stages))


def fit_latency(lengths: Ints, groups: Sequence[Ints], seconds: Floats) -> LinearLatency:
    """Least squares of the (groups,) seconds on rows and tokens of each group, neither below 0.

    `lengths` are the (n,) tokens of all rows; `groups` index the rows that were timed together.
    """
    sizes = np.array([[len(group), lengths[group].sum()] for group in groups], dtype=np.float64)
    row, token = np.linalg.lstsq(sizes, seconds, rcond=None)[0]
    if row < 0:
        row, token = 0.0, seconds.sum() / sizes[:, 1].sum()
    elif token < 0:
        row, token = seconds.sum() / sizes[:, 0].sum(), 0.0
    return LinearLatency(float(row), float(token))
