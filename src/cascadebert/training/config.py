"""Every default of training, in one place.

The metadata of each field holds its documentation, from which `--help` and the docstring are made.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial
from inspect import getdoc
from math import isfinite
from operator import ge, gt, le, lt
from typing import Any, TypeVar

from cascadebert.errors import CascadeError

ConfigT = TypeVar("ConfigT")
BOUNDS = {"gt": (gt, "above"), "ge": (ge, "at least"), "lt": (lt, "below"), "le": (le, "at most")}

_RATE = "Peak learning rate of AdamW; it decays linearly to 0."
_WARMUP = "Fraction of the steps during which the learning rate rises from 0."
_BF16 = "Train in bfloat16; by default where the hardware supports it."


def _option(default: Any, text: str, metavar: str = "X", *, group: str = "Training", **bounds: int) -> Any:
    """A field with its help text, how the command line shows it, and the bounds of its value."""
    metadata = {"help": text, "metavar": metavar, "group": group, "bounds": bounds}
    return field(default=default, metadata=metadata)


_difficulty = partial(_option, group="Difficulty")
_distillation = partial(_option, group="Distillation")
_data = partial(_option, group="Data")


def _documented(config: type[ConfigT]) -> type[ConfigT]:
    """Append the help texts of a configuration's fields to its docstring."""
    lines = [f"    {entry.name}: {entry.metadata['help']}" for entry in fields(config)]  # type: ignore[arg-type]
    config.__doc__ = "\n".join([getdoc(config) or "", "", "Attributes:", *lines])
    return config


def _check_bounds(config: Any) -> None:
    for entry in fields(config):
        value, bounds = getattr(config, entry.name), entry.metadata["bounds"]
        if not bounds or (value is None and entry.default is None):
            continue
        if value is None or not isfinite(value) or not all(BOUNDS[k][0](value, bounds[k]) for k in bounds):
            expected = " and ".join(f"{BOUNDS[name][1]} {bound:,}" for name, bound in bounds.items())
            raise CascadeError(f"{entry.name} must be {expected}, not {value}")


@_documented
@dataclass(frozen=True)
class FitConfig:
    """Options of training a cascade; all of them are stored in the saved folder.

    The defaults of `dar_weight` and `dar_margin` are those of the code released by Li et al. (2021).

    >>> FitConfig(epochs=0)
    Traceback (most recent call last):
    cascadebert.errors.CascadeError: epochs must be above 0, not 0
    """

    max_length: int = _option(128, "Maximum tokens per example; longer texts are truncated.", "N")
    epochs: float = _option(3.0, "Passes over the training examples; may be fractional.", gt=0)
    batch_size: int = _option(32, "Examples per step.", "N", gt=0)
    learning_rate: float = _option(5e-5, _RATE, gt=0)
    warmup_ratio: float = _option(0.0, _WARMUP, ge=0, le=1)
    bf16: bool | None = _option(None, _BF16, "")
    dar_weight: float = _difficulty(
        0.5, "Weight (lambda) of difficulty-aware regularization on all but the last stage; 0: off.", ge=0
    )
    dar_margin: float = _difficulty(
        0.3, "Margin (epsilon) by which easy examples should exceed hard ones in confidence.", ge=0
    )
    difficulty_folds: int = _difficulty(3, "Folds of the cross-validation that labels difficulty.", "N", ge=2)
    difficulty_seeds: int = _difficulty(
        1, "Repeats of that cross-validation with other seeds; 5 in the paper.", "N", ge=1, le=1000
    )
    difficulty_votes: float = _difficulty(
        1.0, "Fraction of the repeats that must predict an example correctly for it to be easy.", ge=0, le=1
    )
    distill_weight: float | None = _distillation(
        None, "Weight of distilling the last stage's logits; by default 1 with unlabeled data, else 0.", ge=0
    )
    distill_temperature: float = _distillation(
        2.0, "Temperature that divides the logits of teacher and student.", gt=0
    )
    tune_fraction: float = _data(
        0.1, "Fraction of the training examples to tune on if there is no validation data.", gt=0, lt=1
    )
    certify_fraction: float = _data(
        0.1, "Fraction of them to reserve for guarantees if there is no validation data.", gt=0, lt=1
    )
    seed: int = _option(1234, "Random seed.", "N", ge=0, lt=2**32)

    def __post_init__(self) -> None:
        _check_bounds(self)
        if self.tune_fraction + self.certify_fraction >= 1:
            raise CascadeError(
                f"tune_fraction + certify_fraction must be below 1, to leave examples to train on, not "
                f"{self.tune_fraction + self.certify_fraction:g}"
            )


@_documented
@dataclass(frozen=True)
class DistillConfig:
    """Options of distilling small models from a large one; all of them are stored in their model cards."""

    max_tokens: int | None = _option(
        None, "Tokens to train on, sampled from the corpus or repeated; by default one pass.", "N", ge=10_000
    )
    max_length: int = _option(128, "Maximum tokens per passage.", "N", ge=16)
    batch_tokens: int = _option(4096, "Tokens per step, padding included.", "N", gt=0)
    learning_rate: float = _option(2e-3, _RATE, gt=0)
    warmup_ratio: float = _option(0.05, _WARMUP, ge=0, le=1)
    bf16: bool | None = _option(None, _BF16, "")
    seed: int = _option(1234, "Random seed.", "N", ge=0, lt=2**32)

    def __post_init__(self) -> None:
        _check_bounds(self)
