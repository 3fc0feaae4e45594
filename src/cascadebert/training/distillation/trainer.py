"""Task-agnostic distillation: the objectives, and students that learn one from unlabeled text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cascadebert.errors import extra
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.torch import takes_token_types
from cascadebert.timing import now
from cascadebert.training.config import DistillConfig
from cascadebert.training.distillation.token_store import padding_fraction, split_held_out, token_batches
from cascadebert.training.trainer import (
    Inputs,
    padded_inputs,
    runs_in_bf16,
    train_steps,
    use_bf16,
    use_eager_attention,
)
from cascadebert.types import Ints

with extra("train"):
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
    from transformers import PreTrainedModel


Features = Callable[[Ints, Inputs], Tensor]
"""The teacher's features of the passages at (rows,) positions, which are given as padded inputs too."""


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


@dataclass(frozen=True)
class DistillationResult:
    """Losses and throughput of one training run."""

    losses: tuple[float, ...]  # of each student, on held-out passages
    tokens: int  # trained on, without padding
    padding: float  # fraction of the computed tokens that was padding
    tokens_per_second: float | None  # of this call; None if nothing was left to train


def running_teacher(
    teacher: PreTrainedModel, objective: DistillationObjective, *, bf16: bool | None
) -> Features:
    """The features of a copy of the teacher, which runs on every batch."""
    frozen = deepcopy(teacher).eval().requires_grad_(False)
    narrow = use_bf16(bf16) and runs_in_bf16(frozen)
    nn.Module.to(frozen, _device(), torch.bfloat16 if narrow else torch.float32)
    return lambda positions, inputs: objective.features(frozen, inputs)


def train_students(
    teacher: PreTrainedModel,
    students: Sequence[PreTrainedModel],
    passages: TokenizedTexts,
    config: DistillConfig,
    objective: DistillationObjective,
    features: Features,
    *,
    folder: Path,
    description: str = "distilling",
    epochs: float = 1.0,
) -> DistillationResult:
    """Train the students in place on the teacher's `features`, with checkpoints in `folder`.

    `epochs` is the number of passes over the passages if the configuration does not limit the tokens.
    """
    lengths, token_types = passages.lengths, takes_token_types(teacher)
    module = Students(teacher, students, objective, seed=config.seed)

    def collate(positions: Ints) -> Inputs:
        return padded_inputs(passages, positions, token_types)

    def losses(module: nn.Module, inputs: Inputs, positions: Ints) -> Tensor:
        with torch.no_grad():
            targets = features(positions, inputs)
        result: Tensor = module(teacher_features=targets, **inputs)
        return result

    for student in students:
        use_eager_attention(student)
    train, held_out = split_held_out(lengths, seed=config.seed)
    budget, one_pass = config.batch_tokens, int(lengths[train].sum())
    tokens = config.max_tokens or max(1, round(epochs * one_pass))
    batches = token_batches(lengths, train, budget=budget, tokens=tokens, seed=config.seed)
    amounts = np.array([int(lengths[batch].sum()) for batch in batches])
    start = now()
    done = train_steps(
        module,
        batches,
        config,
        collate,
        lambda module, inputs, step: losses(module, inputs, batches[step]).sum(),
        folder=folder,
        description=f"{description}, {len(students)} at once" if len(students) > 1 else description,
        amounts=amounts,
        clipped=[nn.ModuleList(pair) for pair in zip(module.students, module.projections, strict=True)],
    )
    speed = done / (now() - start) if done else None
    module.to(_device())
    tests = token_batches(lengths, held_out, budget=budget, tokens=int(lengths[held_out].sum()), seed=0)
    held_out_losses = _mean_losses(functools.partial(losses, module), tests, collate)
    module.to("cpu")
    return DistillationResult(held_out_losses, int(amounts.sum()), padding_fraction(lengths, batches), speed)


@torch.no_grad()
def _mean_losses(
    losses: Callable[[Inputs, Ints], Tensor], batches: Iterable[Ints], collate: Callable[[Ints], Inputs]
) -> tuple[float, ...]:
    """The loss of each student in float32, averaged over all tokens of the batches."""
    total, count = torch.zeros((), device=_device()), 0
    for positions in batches:
        inputs = {name: tensor.to(_device()) for name, tensor in collate(positions).items()}
        tokens = int(inputs["attention_mask"].sum())
        total = total + losses(inputs, positions) * tokens
        count += tokens
    return tuple(float(loss) for loss in total / count)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
