"""Task-agnostic distillation objectives, and the students that are trained with one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from cascadebert.errors import extra

with extra("train"):
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
    from transformers import PreTrainedModel


class DistillationObjective(Protocol):
    """Features of both models and their distance; masks are (rows, tokens), True at tokens."""

    name: str  # description for the model card

    def features(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
        """Features of a padded batch."""

    def projection(self, teacher: PreTrainedModel, student: PreTrainedModel) -> nn.Module:
        """A map to the teacher's width, trained with the student and then discarded."""

    def target(self, features: Tensor, mask: Tensor) -> Any:
        """The teacher's features in the form that `loss` takes; computed once for all students."""

    def loss(self, projection: nn.Module, features: Tensor, target: Any, mask: Tensor) -> Tensor:
        """Distance of a student's features from the target; a scalar."""


class HiddenStateObjective:
    """Mean squared error between last hidden states, as a fraction of the variance of the teacher's.

    0 is a perfect copy, 1 is no better than a constant. Where the widths differ, a linear projection is
    learned (as in TinyBERT, Jiao et al. 2020, equation 8; only the last layer is matched, because the
    student's layers are too few to follow the others). benchmarks/shrink.py compares it with attention
    relations (MiniLMv2, Wang et al. 2021).
    """

    name = "last hidden states; held-out loss is the share of their variance not reproduced"

    def features(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(rows, tokens, width) last hidden states."""
        hidden: Tensor = model(**inputs).last_hidden_state
        return hidden

    def projection(self, teacher: PreTrainedModel, student: PreTrainedModel) -> nn.Module:
        """A linear map that starts at 0, or the identity where the widths are equal.

        Random weights would start as noise, which a student removes fastest by becoming constant.
        """
        wide, narrow = teacher.config.hidden_size, student.config.hidden_size
        if wide == narrow:
            return nn.Identity()
        linear = nn.Linear(narrow, wide)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return linear

    def target(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(all tokens, width) states without padding, and their mean variance over the tokens."""
        states = features[mask].float()
        return states, states.var(dim=0).mean()

    def loss(
        self, projection: nn.Module, features: Tensor, target: tuple[Tensor, Tensor], mask: Tensor
    ) -> Tensor:
        """Fraction of the teacher's variance that is not explained."""
        states, variance = target
        return functional.mse_loss(projection(features[mask]).float(), states) / variance


class Students(nn.Module):
    """Several students of one teacher, with their projections."""

    def __init__(
        self,
        teacher: PreTrainedModel,
        students: Sequence[PreTrainedModel],
        objective: DistillationObjective,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.students = nn.ModuleList(students)
        self.projections = nn.ModuleList()
        for student in students:
            with torch.random.fork_rng():
                torch.manual_seed(seed)  # the weights must not depend on how many students there are
                self.projections.append(objective.projection(teacher, student))

    def forward(self, teacher_features: Tensor, **inputs: Tensor) -> Tensor:
        """(students,) the loss of each."""
        mask = inputs["attention_mask"].bool()
        target = self.objective.target(teacher_features, mask)
        losses = []
        for student, projection in zip(self.students, self.projections, strict=True):
            features = self.objective.features(student, inputs)  # type: ignore[arg-type]
            losses.append(self.objective.loss(projection, features, target, mask))
        return torch.stack(losses)

    def train(self, mode: bool = True) -> Students:
        """Stay in evaluation mode: the teacher's features are without dropout, so are the students'."""
        return super().train(False)
