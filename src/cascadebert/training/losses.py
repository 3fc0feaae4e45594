"""Loss terms of a stage: labels, difficulty-aware regularization, distillation and Gatekeeper."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from cascadebert.errors import extra

with extra("train"):
    import torch
    from torch import Tensor
    from torch.nn import functional

NO_LABEL = -100  # label id of an unlabeled example, which takes no part in the cross-entropy


def dar_loss(logits: Tensor, hard: Tensor, *, margin: float) -> Tensor:
    """Difficulty-aware regularization (Li et al. 2021, section 3.2) of (rows, num_labels) logits.

    L_DAR = mean over easy rows i of max(0, -(c_i - c_j(i)) + margin), where c is the confidence (maximum
    softmax probability, right or wrong) and j(i) a row of the batch with `hard` (rows,) set, drawn uniformly
    with replacement. Gradients flow into both sides. Without easy or without hard rows the term is 0.
    """
    confidences = logits.softmax(dim=-1).amax(dim=-1)
    easy_side, hard_side = confidences[~hard], confidences[hard]
    if not len(easy_side) or not len(hard_side):
        return confidences.sum() * 0.0
    partners = torch.randint(len(hard_side), (len(easy_side),), device=logits.device)
    return functional.relu(margin - (easy_side - hard_side[partners])).mean()


def distillation_loss(logits: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of softened predictions times temperature^2 (Hinton et al. 2015, section 2).

    Both logits are (rows, num_labels). No labels are needed.
    """
    student, teacher = (functional.log_softmax(each / temperature, dim=-1) for each in (logits, teacher))
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def gatekeeper_loss(logits: Tensor, labels: Tensor, *, alpha: float) -> Tensor:
    """Loss that raises the confidence of correct predictions and lowers it elsewhere (Rabanser et al. 2025).

    alpha * CE over the correctly predicted rows + (1 - alpha) * KL(prediction || uniform) over the others,
    both divided by the number of all rows. `logits` are (rows, num_labels), `labels` (rows,), those with
    `NO_LABEL` left out; alpha is in [0, 1]. It is for a model that has learned the task already: an untrained
    one is wrong everywhere, and would learn to predict uniformly.
    """
    labeled = labels != NO_LABEL
    correct = labeled & (logits.argmax(dim=-1) == labels)
    log_probs = functional.log_softmax(logits, dim=-1)
    cross_entropy = functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="none")
    divergence = (log_probs.exp() * log_probs).sum(dim=-1) + math.log(logits.shape[-1])
    losses = alpha * cross_entropy * correct + (1 - alpha) * divergence * (labeled & ~correct)
    return losses.sum() / len(labels)


@dataclass(frozen=True)
class Objective:
    """The weighted sum of the loss terms of one stage."""

    dar_weight: float = 0.0  # lambda of `dar_loss`
    dar_margin: float = 0.3
    distill_weight: float = 0.0
    distill_temperature: float = 2.0
    gatekeeper: float | None = None  # alpha of `gatekeeper_loss`, which then replaces the cross-entropy

    def key(self) -> dict[str, float]:
        """The options that decide the weights, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __call__(
        self, logits: Tensor, labels: Tensor, hard: Tensor | None = None, teacher: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch: L = CE + dar_weight * L_DAR + distill_weight * L_distill.

        CE is summed over the labeled rows and divided by the number of all rows; L_DAR is that of the
        labeled rows. `logits` and `teacher` are (rows, num_labels), `labels` and `hard` (rows,).
        """
        if self.gatekeeper is None:
            loss = functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum")
            loss = loss / len(labels)
        else:
            loss = gatekeeper_loss(logits, labels, alpha=self.gatekeeper)
        if hard is not None and self.dar_weight:
            labeled = labels != NO_LABEL
            loss = loss + self.dar_weight * dar_loss(logits[labeled], hard[labeled], margin=self.dar_margin)
        if teacher is not None and self.distill_weight:
            distillation = distillation_loss(logits, teacher, temperature=self.distill_temperature)
            loss = loss + self.distill_weight * distillation
        return loss
