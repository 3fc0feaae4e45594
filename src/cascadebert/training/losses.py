"""What a stage learns: the labels, to be sure where it may be, and optionally the last stage's logits."""

from __future__ import annotations

from dataclasses import dataclass

from cascadebert.errors import extra

with extra("train"):
    import torch
    from torch import Tensor
    from torch.nn import functional

NO_LABEL = -100
"""Label id of a row without a label: it takes no part in the cross-entropy."""


def dar_loss(logits: Tensor, hard: Tensor, *, margin: float) -> Tensor:
    """Difficulty-aware regularisation (Li et al. 2021, section 3.2).

    L_DAR = mean over easy rows i of max(0, -(c_i - c_j(i)) + margin), where c is the confidence (maximum
    softmax probability, right or wrong) and j(i) a hard row of the batch drawn uniformly with replacement.
    Gradients flow into both sides. Without easy or without hard rows the term is 0.

    Args:
        logits: (rows, num_labels).
        hard: (rows,) True where the row is difficult.
        margin: epsilon.

    >>> logits = torch.log(torch.tensor([[0.6, 0.4], [0.9, 0.1]]))
    >>> round(dar_loss(logits, torch.tensor([False, True]), margin=0.3).item(), 4)
    0.6
    """
    confidence = logits.softmax(dim=-1).amax(dim=-1)
    easy_side, hard_side = confidence[~hard], confidence[hard]
    if not len(easy_side) or not len(hard_side):
        return confidence.sum() * 0.0
    partner = torch.randint(len(hard_side), (len(easy_side),), device=logits.device)
    return functional.relu(margin - (easy_side - hard_side[partner])).mean()


def distillation_loss(logits: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's to the own softened answer, times temperature squared.

    Hinton et al. 2015, section 2. Needs no label.

    Args:
        logits: (rows, num_labels).
        teacher: (rows, num_labels).
        temperature: divides both.
    """
    own = functional.log_softmax(logits / temperature, dim=-1)
    wanted = functional.log_softmax(teacher / temperature, dim=-1)
    return functional.kl_div(own, wanted, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True)
class Objective:
    """The sum of the terms, for one stage.

    Attributes:
        dar_weight: lambda of `dar_loss`.
        dar_margin: its margin.
        distill_weight: weight of `distillation_loss`.
        distill_temperature: its temperature.
    """

    dar_weight: float = 0.0
    dar_margin: float = 0.3
    distill_weight: float = 0.0
    distill_temperature: float = 2.0

    def __call__(
        self, logits: Tensor, labels: Tensor, hard: Tensor | None = None, teacher: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch: L = CE + dar_weight * L_DAR + distill_weight * L_distill.

        CE is summed over the rows with a label and divided by the number of all rows.

        Args:
            logits: (rows, num_labels).
            labels: (rows,) label ids; `NO_LABEL` where there is none.
            hard: (rows,) True where the row is difficult; counts only where there is a label.
            teacher: (rows, num_labels) of the last stage.
        """
        known = labels != NO_LABEL
        loss = functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum") / len(labels)
        if hard is not None and self.dar_weight:
            loss = loss + self.dar_weight * dar_loss(logits[known], hard[known], margin=self.dar_margin)
        if teacher is not None and self.distill_weight:
            loss = loss + self.distill_weight * distillation_loss(
                logits, teacher, temperature=self.distill_temperature
            )
        return loss
