"""Kinds of stages: everything that differs between a transformer and a static classifier.

A new kind (such as a remote model) is one more `StageKind` here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascadebert.inference.engines.base import Engine
from cascadebert.inference.engines.static import MODEL_TYPE, StaticEngine
from cascadebert.types import Flops


@dataclass(frozen=True)
class StageKind:
    """How stages of one kind are loaded, counted and trained."""

    name: str
    own_engine: Callable[[Path], Engine] | None = None  # None: runs on any of the engines
    known_flops: Callable[[int], Flops] | None = None  # of `num_labels`; None: counted by running the model
    learning_rate: float | None = None  # replaces the configured one
    min_epochs: float = 0.0
    bf16: bool | None = None

    def recipe_overrides(self, epochs: float) -> dict[str, Any]:
        """Fields of a training configuration that this kind replaces, given the configured epochs."""
        if self.learning_rate is None:
            return {}
        return {
            "learning_rate": self.learning_rate,
            "epochs": max(epochs, self.min_epochs),
            "bf16": self.bf16,
        }


TRANSFORMER = StageKind("transformer")
STATIC = StageKind(
    MODEL_TYPE,
    own_engine=StaticEngine,
    known_flops=lambda labels: Flops(row=2.0 * labels, token=2.0 * (labels + 1), pair=0.0),
    learning_rate=5e-3,
    min_epochs=4.0,
    bf16=False,
)


def stage_kind(path: Path) -> StageKind:
    """The kind of the stage in a checkpoint folder, by the `model_type` of its config.json."""
    try:
        model_type = json.loads((path / "config.json").read_text("utf-8")).get("model_type")
    except (OSError, ValueError):
        return TRANSFORMER
    return STATIC if model_type == STATIC.name else TRANSFORMER
