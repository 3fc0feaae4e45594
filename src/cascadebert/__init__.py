"""Cascades of complete text classifiers: small first, large only for the unsure rows.

The names below are loaded when first used, so `import cascadebert` is quick and needs no extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascadebert.cascade import Cascade
    from cascadebert.errors import CascadeError
    from cascadebert.evaluation import evaluate
    from cascadebert.guarantees import certify
    from cascadebert.stage import Stage
    from cascadebert.thresholds import select_thresholds
    from cascadebert.training.assemble import assemble
    from cascadebert.training.config import FitConfig
    from cascadebert.training.difficulty import label_difficulty
    from cascadebert.training.fit import fit
    from cascadebert.training.shrink import shrink
    from cascadebert.tuning import tune
    from cascadebert.types import OperatingPoint, Predictions, Target

__version__ = "0.1.0"

_ROOMS = {
    "Cascade": "cascade",
    "CascadeError": "errors",
    "FitConfig": "training.config",
    "OperatingPoint": "types",
    "Predictions": "types",
    "Stage": "stage",
    "Target": "types",
    "assemble": "training.assemble",
    "certify": "guarantees",
    "evaluate": "evaluation",
    "fit": "training.fit",
    "label_difficulty": "training.difficulty",
    "select_thresholds": "thresholds",
    "shrink": "training.shrink",
    "tune": "tuning",
}

__all__ = [
    "Cascade",
    "CascadeError",
    "FitConfig",
    "OperatingPoint",
    "Predictions",
    "Stage",
    "Target",
    "assemble",
    "certify",
    "evaluate",
    "fit",
    "label_difficulty",
    "select_thresholds",
    "shrink",
    "tune",
]


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'cascadebert' has no attribute {name!r}")
    return getattr(import_module(f"cascadebert.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
