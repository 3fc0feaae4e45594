"""What a student learns from a large encoder, whatever the task: its last hidden states."""

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
    """A task-agnostic objective: features of both models, and how far apart they are.

    Attributes:
        name: what is learned, in words.
    """

    name: str

    def features(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
        """What is compared, of a padded batch."""

    def bridge(self, teacher: PreTrainedModel, student: PreTrainedModel) -> nn.Module:
        """What maps the student's features to the teacher's width; trained with it, then thrown away."""

    def target(self, features: Tensor, mask: Tensor) -> Any:
        """What of the teacher's features every student is compared with; made once for all of them.

        Args:
            features: the teacher's.
            mask: (rows, tokens) True where there is a token.
        """

    def loss(self, bridge: nn.Module, own: Tensor, target: Any, mask: Tensor) -> Tensor:
        """How far a student is from the teacher; a scalar.

        Args:
            bridge: as made by `bridge`.
            own: the student's features.
            target: as made by `target`.
            mask: (rows, tokens) True where there is a token.
        """


class HiddenStateObjective:
    """Mean squared error between last hidden states, as a share of the variance of the teacher's.

    0 is a perfect copy, 1 is no better than a constant. Where the widths differ a linear map stands between
    (as in TinyBERT, Jiao et al. 2020, equation 8; of all layers only the last is matched, as the student's
    layers are too few to follow the others). benchmarks/shrink.py compares it with attention relations
    (MiniLMv2, Wang et al. 2021).
    """

    name = "last hidden states; held-out loss is the share of their variance not reproduced"

    def features(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(rows, tokens, width) the last hidden states."""
        hidden: Tensor = model(**inputs).last_hidden_state
        return hidden

    def bridge(self, teacher: PreTrainedModel, student: PreTrainedModel) -> nn.Module:
        """A linear map that starts at 0, or nothing where the widths are equal.

        Drawn at random it would first be noise, and a student removes noise fastest by becoming constant.
        """
        wide, narrow = teacher.config.hidden_size, student.config.hidden_size
        if wide == narrow:
            return nn.Identity()
        made = nn.Linear(narrow, wide)
        nn.init.zeros_(made.weight)
        nn.init.zeros_(made.bias)
        return made

    def target(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(all tokens, width) the states of real tokens, and their mean variance over the tokens."""
        states = features[mask].float()
        return states, states.var(dim=0).mean()

    def loss(self, bridge: nn.Module, own: Tensor, target: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """The share of the teacher's variance that is not explained."""
        states, variance = target
        return functional.mse_loss(bridge(own[mask]).float(), states) / variance


class Students(nn.Module):
    """Several students that learn from the same features of one teacher."""

    def __init__(
        self,
        teacher: PreTrainedModel,
        students: Sequence[PreTrainedModel],
        transfer: DistillationObjective,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.transfer = transfer
        self.students = nn.ModuleList(students)
        bridges = []
        for student in students:
            with torch.random.fork_rng():
                torch.manual_seed(seed)  # each as if it were alone
                bridges.append(transfer.bridge(teacher, student))
        self.bridges = nn.ModuleList(bridges)

    def forward(self, wanted: Tensor, **inputs: Tensor) -> Tensor:
        """(students,) the loss of each."""
        mask = inputs["attention_mask"].bool()
        target = self.transfer.target(wanted, mask)
        losses = []
        for student, bridge in zip(self.students, self.bridges, strict=True):
            own = self.transfer.features(student, inputs)  # type: ignore[arg-type]
            losses.append(self.transfer.loss(bridge, own, target, mask))
        return torch.stack(losses)

    def train(self, mode: bool = True) -> Students:
        """Never on: the features to copy are without dropout, so the copies are made without it."""
        return super().train(False)
