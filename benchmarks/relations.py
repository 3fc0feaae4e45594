"""The objective that `shrink` did not take: attention relations (MiniLMv2, Wang et al. 2021, section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel


class AttentionRelations:
    """Relations among the queries, keys and values of the last layer, of BERT's form.

    L = mean over Q, K and V of KL(softmax(T T' / sqrt(d)) || softmax(S S' / sqrt(d))), where the features of
    all heads are laid side by side and split into as many relation heads as the student has heads; d is the
    width of a relation head. Widths may differ, so nothing stands between.
    """

    name = "attention relations of the last layer; held-out loss is a Kullback-Leibler divergence"

    def features(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(3, rows, tokens, width) queries, keys and values of the last layer."""
        bert: Any = model
        attention = bert.encoder.layer[-1].attention.self
        seen: list[Tensor] = []
        hooks = [
            part.register_forward_hook(lambda _part, _given, answer: seen.append(answer))
            for part in (attention.query, attention.key, attention.value)
        ]
        try:
            model(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(seen)

    def projection(self, teacher: PreTrainedModel, student: PreTrainedModel) -> nn.Module:
        """Nothing to train; it knows the number of relation heads."""
        return Heads(student.config.num_attention_heads)

    def target(self, features: Tensor, mask: Tensor) -> Tensor:
        """The features themselves: their relations depend on the student's number of heads."""
        return features

    def loss(self, projection: nn.Module, features: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """The divergence, averaged over tokens, relation heads and the three kinds."""
        assert isinstance(projection, Heads)
        heads = projection.count
        theirs, ours = (_relations(side.float(), heads, mask) for side in (target, features))
        each = functional.kl_div(ours, theirs, reduction="none", log_target=True)
        each = each.masked_fill(~mask[:, None, None, :], 0.0).sum(dim=-1)  # (3, rows, heads, tokens)
        return each.mean(dim=(0, 2))[mask].mean()


class Heads(nn.Module):
    """How many relation heads there are."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count


def _relations(features: Tensor, heads: int, mask: Tensor) -> Tensor:
    """(3, rows, heads, tokens, tokens) logarithms of the relations; padding tokens are never related to."""
    kinds, rows, tokens, width = features.shape
    split = features.view(kinds, rows, tokens, heads, width // heads).transpose(2, 3)
    scores = split @ split.transpose(-1, -2) / (width // heads) ** 0.5
    answer: Tensor = scores.masked_fill(~mask[:, None, None, :], -1e9).log_softmax(dim=-1)
    return answer
