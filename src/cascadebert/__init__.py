"""Cascades of complete text classifiers: small models first, large ones only for the uncertain texts.

The public names are imported lazily, so `import cascadebert` is fast and needs no optional dependency.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascadebert.errors import CascadeError
    from cascadebert.evaluation.evaluate import evaluate
    from cascadebert.inference.cascade import Cascade
    from cascadebert.inference.stage import Stage
    from cascadebert.thresholds.operating_point import OperatingPoint, Target
    from cascadebert.thresholds.risk_control import certify
    from cascadebert.thresholds.select import select_thresholds
    from cascadebert.training.assemble import assemble
    from cascadebert.training.cascade_builder.build import build
    from cascadebert.training.config import FitConfig
    from cascadebert.training.distillation.distill import distill
    from cascadebert.training.fit import fit
    from cascadebert.tuning.tune import tune
    from cascadebert.types import Predictions

__version__ = "0.1.0"

_LAZY_IMPORTS = {
    "Cascade": "inference.cascade",
    "CascadeError": "errors",
    "FitConfig": "training.config",
    "OperatingPoint": "thresholds.operating_point",
    "Predictions": "types",
    "Stage": "inference.stage",
    "Target": "thresholds.operating_point",
    "assemble": "training.assemble",
    "build": "training.cascade_builder.build",
    "certify": "thresholds.risk_control",
    "distill": "training.distillation.distill",
    "evaluate": "evaluation.evaluate",
    "fit": "training.fit",
    "select_thresholds": "thresholds.select",
    "tune": "tuning.tune",
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
    "build",
    "certify",
    "distill",
    "evaluate",
    "fit",
    "select_thresholds",
    "tune",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'cascadebert' has no attribute {name!r}")
    return getattr(import_module(f"cascadebert.{_LAZY_IMPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
