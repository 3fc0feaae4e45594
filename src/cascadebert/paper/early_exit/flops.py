"""Savings of early exit by counting: layers, as in the literature, and floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascadebert.errors import extra
from cascadebert.paper.early_exit.exit_rules import ExitRule
from cascadebert.paper.early_exit.model import MultiExitModel
from cascadebert.training.checkpoints import flops_polynomial
from cascadebert.types import Flops, Ints

with extra("train"):
    import torch
    from torch import Tensor
    from transformers import AutoModelForSequenceClassification


@dataclass(frozen=True)
class ExitFlops:
    """Operations of one text that exits after layer 1, 2, ... of a model."""

    exits: tuple[Flops, ...]  # one per layer, including the classifiers of all exits evaluated until then
    without_exits: Flops  # all layers and the last classifier only

    def speedup(self, layers: Ints, lengths: Ints) -> float:
        """Operations without exits over those with them.

        Args:
            layers: (n,) layer after which each text exited, counted from 1.
            lengths: (n,) padded tokens.
        """
        by_exit = np.stack([flops.cost_of(lengths) for flops in self.exits])
        return float(
            self.without_exits.cost_of(lengths).sum() / by_exit[layers - 1, np.arange(len(layers))].sum()
        )


def exit_flops(model: MultiExitModel, rule: ExitRule) -> ExitFlops:
    """Count the operations of exiting at each layer with a rule; nothing is computed with the model.

    Matrix products are counted, two operations per multiply-add; embedding look-ups are free. A text pays for
    its layers and, for every exit that was evaluated, for pooler, classifier and (where the rule needs it)
    learning-to-exit layer.
    """
    with torch.device("meta"):
        classifier = AutoModelForSequenceClassification.from_config(
            model.encoder_config, attn_implementation="eager", dtype=torch.float32
        )
        shape = MultiExitModel(classifier, model.heads).eval()

    def hidden(ids: Tensor) -> Tensor:
        return torch.empty(*ids.shape, shape.encoder_config.hidden_size, device="meta")

    embedding = flops_polynomial(lambda ids: shape.embed({"input_ids": ids}), "meta")
    layer = flops_polynomial(lambda ids: shape.layer(1, hidden(ids), None), "meta")
    head = flops_polynomial(lambda ids: shape.classify(1, hidden(ids)[:, 0]), "meta")
    lte = flops_polynomial(lambda ids: shape.error_probability(hidden(ids)[:, 0]), "meta")
    evaluated = rule.evaluated_exits(shape.depth)
    exits = []
    for depth in range(1, shape.depth + 1):
        heads = int(evaluated[: depth - 1].sum()) + 1  # where a text exits, the classifier is evaluated
        ltes = min(heads, int(evaluated[:-1].sum())) if rule.needs_lte else 0
        exits.append(_weighted_sum((1, embedding), (depth, layer), (heads, head), (ltes, lte)))
    return ExitFlops(tuple(exits), _weighted_sum((1, embedding), (shape.depth, layer), (1, head)))


def layers_speedup(layers: Ints, depth: int) -> float:
    """The speed-up of the literature: L * N over the sum of m * N_m, where N_m texts exited after layer m.

    `layers` is (n,), counted from 1; `depth` is L. It ignores the exits' classifiers and part-filled batches.

    >>> layers_speedup(np.array([2, 2, 12, 12]), 12)
    1.7142857142857142
    """
    return float(depth * len(layers) / layers.sum())


def _weighted_sum(*terms: tuple[int, Flops]) -> Flops:
    return Flops(
        row=sum(times * flops.row for times, flops in terms),
        token=sum(times * flops.token for times, flops in terms),
        pair=sum(times * flops.pair for times, flops in terms),
    )
