"""What a stage learns: the labels, to be sure where it may be, and optionally the last stage's logits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

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


def gatekeeper_loss(logits: Tensor, labels: Tensor, *, alpha: float) -> Tensor:
    """Be sure where right, unsure where wrong (Gatekeeper: Rabanser et al. 2025).

    alpha * CE over the rows answered rightly + (1 - alpha) * KL(answer || uniform) over those answered
    wrongly, both divided by the number of all rows. It is for a model that has learned the task already: one
    that has not is wrong everywhere, and would be taught to know nothing.

    Args:
        logits: (rows, num_labels).
        labels: (rows,) label ids; rows with `NO_LABEL` take no part.
        alpha: in [0, 1].

    >>> logits = torch.log(torch.tensor([[0.8, 0.2], [0.8, 0.2]]))
    >>> round(gatekeeper_loss(logits, torch.tensor([0, 1]), alpha=0.5).item(), 4)
    0.104
    """
    known = labels != NO_LABEL
    right = known & (logits.argmax(dim=-1) == labels)
    said = functional.log_softmax(logits, dim=-1)
    surer = functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="none")
    uneven = (said.exp() * said).sum(dim=-1) + math.log(logits.shape[-1])
    each = alpha * surer * right + (1 - alpha) * uneven * (known & ~right)
    return each.sum() / len(labels)


@dataclass(frozen=True)
class Objective:
    """The sum of the terms, for one stage.

    Attributes:
        dar_weight: lambda of `dar_loss`.
        dar_margin: its margin.
        distill_weight: weight of `distillation_loss`.
        distill_temperature: its temperature.
        gatekeeper: alpha of `gatekeeper_loss`, which then stands in place of the cross-entropy; None is off.
    """

    dar_weight: float = 0.0
    dar_margin: float = 0.3
    distill_weight: float = 0.0
    distill_temperature: float = 2.0
    gatekeeper: float | None = None

    def key(self) -> dict[str, float]:
        """What decides the weights; an option that is off leaves no trace."""
        return {name: value for name, value in asdict(self).items() if value is not None}

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
        if self.gatekeeper is None:
            loss = functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum")
            loss = loss / len(labels)
        else:
            loss = gatekeeper_loss(logits, labels, alpha=self.gatekeeper)
        if hard is not None and self.dar_weight:
            loss = loss + self.dar_weight * dar_loss(logits[known], hard[known], margin=self.dar_margin)
        if teacher is not None and self.distill_weight:
            loss = loss + self.distill_weight * distillation_loss(
                logits, teacher, temperature=self.distill_temperature
            )
        return loss
