"""What leaving early saves, by counting: layers as the literature does, and floating-point operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cascadebert.errors import extra
from cascadebert.paper.early_exit.exit_rules import ExitRule, FixedLayer
from cascadebert.paper.early_exit.model import MultiExitModel
from cascadebert.training.checkpoints import flops_polynomial
from cascadebert.types import Floats, Flops, Ints

with extra("train"):
    import torch
    from torch import Tensor
    from transformers import AutoModelForSequenceClassification


@dataclass(frozen=True)
class ExitFlops:
    """Operations of one row that leaves after layer 1, 2, ... of a model.

    Attributes:
        exits: one per layer, the classifiers of all exits tried until then among them.
        alone: of the whole model with its last classifier only.
    """

    exits: tuple[Flops, ...]
    alone: Flops

    def cost_of(self, layers: Ints, lengths: Ints) -> Floats:
        """(n,) operations.

        Args:
            layers: (n,) where each row left, counted from 1.
            lengths: (n,) its padded tokens, as they are computed.
        """
        every = np.stack([one.cost_of(lengths) for one in self.exits])
        return np.asarray(every[layers - 1, np.arange(len(layers))])


def exit_flops(model: MultiExitModel, rule: ExitRule) -> ExitFlops:
    """Count the operations of leaving at each layer.

    Matrix products are counted, two operations per multiply-add; looking up embeddings is free. A row pays
    the layers that it ran and pooler, classifier and (where the rule reads it) learning-to-exit layer of
    every exit that was tried on it.

    Args:
        model: with exits; nothing is computed with it.
        rule: which exits it tries.
    """
    with torch.device("meta"):
        plain = AutoModelForSequenceClassification.from_config(
            model.encoder_config, attn_implementation="eager", dtype=torch.float32
        )
        shape = MultiExitModel(plain, model.exits).eval()
    parts = _Parts(shape)
    tried = rule.tried(shape.depth)
    exits = []
    for layer in range(1, shape.depth + 1):
        asked = int(tried[: layer - 1].sum()) + 1  # where a row leaves, its classifier answers
        doubts = min(asked, int(tried[:-1].sum())) if rule.reads_lte else 0
        exits.append(
            _sum([(1, parts.start), (layer, parts.layer), (asked, parts.exit), (doubts, parts.doubt)])
        )
    alone = _sum([(1, parts.start), (shape.depth, parts.layer), (1, parts.exit)])
    return ExitFlops(tuple(exits), alone)


def layers_speedup(layers: Ints, depth: int) -> float:
    """The literature's speed-up: L * N over the sum of m * N_m, N_m rows having left after layer m.

    Exits' classifiers are left out of it, and so is what a batch costs that is not full.

    Args:
        layers: (n,) where each row left, counted from 1.
        depth: L, layers of the model.

    >>> layers_speedup(np.array([2, 2, 12, 12]), 12)
    1.7142857142857142
    """
    return float(depth * len(layers) / layers.sum())


def flops_speedup(flops: ExitFlops, layers: Ints, lengths: Ints) -> float:
    """Operations of the whole model with its last classifier only, over those that were paid.

    Args:
        flops: of the model and rule.
        layers: (n,) where each row left, counted from 1.
        lengths: (n,) padded tokens.
    """
    return float(flops.alone.cost_of(lengths).sum() / flops.cost_of(layers, lengths).sum())


def truncated_flops(model: MultiExitModel, layers: int) -> Flops:
    """Operations of the first layers with one classifier, a model cut short.

    Args:
        model: with exits.
        layers: kept.
    """
    return exit_flops(model, FixedLayer(layers)).exits[layers - 1]


class _Parts:
    """Operations of each part of a model for one row."""

    def __init__(self, shape: MultiExitModel) -> None:
        def hidden(ids: Tensor) -> Tensor:
            return torch.empty(*ids.shape, shape.encoder_config.hidden_size, device="meta")

        self.start = flops_polynomial(lambda ids: shape.embed({"input_ids": ids}), "meta")
        self.layer = flops_polynomial(lambda ids: shape.layer(1, hidden(ids), None), "meta")
        self.exit = flops_polynomial(lambda ids: shape.answer(1, hidden(ids)[:, 0]), "meta")
        self.doubt = flops_polynomial(lambda ids: shape.doubt(hidden(ids)[:, 0]), "meta")


def _sum(counted: Sequence[tuple[int, Flops]]) -> Flops:
    return Flops(
        row=sum(times * one.row for times, one in counted),
        token=sum(times * one.token for times, one in counted),
        pair=sum(times * one.pair for times, one in counted),
    )
