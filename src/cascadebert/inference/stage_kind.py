"""Kinds of stages: everything that differs between a transformer and a static classifier.

A further kind (such as a remote model) is one more `StageKind` here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cascadebert.inference.engines.base import Engine
from cascadebert.inference.engines.static import MODEL_TYPE, StaticEngine
from cascadebert.persistence.checkpoint_config import read_config
from cascadebert.types import Flops


@dataclass(frozen=True)
class StageKind:
    """How stages of one kind are loaded, counted and trained."""

    own_engine: Callable[[Path], Engine] | None = None  # None: runs on any of the engines
    known_flops: Callable[[int], Flops] | None = None  # of `num_labels`; None: counted by running the model
    min_epochs: float = 0.0
    training: Mapping[str, Any] = field(default_factory=dict)  # further fields of a FitConfig to replace

    def recipe_overrides(self, epochs: float) -> dict[str, Any]:
        """Fields of a training configuration that this kind replaces, given the configured epochs."""
        return {**self.training, "epochs": max(epochs, self.min_epochs)}


TRANSFORMER = StageKind()
STATIC = StageKind(
    own_engine=StaticEngine,
    known_flops=lambda labels: Flops(row=2.0 * labels, token=2.0 * (labels + 1), pair=0.0),
    min_epochs=4.0,
    training={"learning_rate": 5e-3, "bf16": False},
)


def stage_kind(path: Path) -> StageKind:
    """The kind of the stage in a checkpoint folder. Raises StageError if its config.json is unreadable."""
    return STATIC if read_config(path).get("model_type") == MODEL_TYPE else TRANSFORMER
