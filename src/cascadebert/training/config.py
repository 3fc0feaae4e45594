"""Every default of training, in one place.

The metadata of each field holds its documentation, from which `--help` and the docstring are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from inspect import getdoc
from math import isfinite
from typing import Any, NamedTuple, TypeVar

from cascadebert.errors import CascadeError

ConfigT = TypeVar("ConfigT")


class Rule(NamedTuple):
    """A condition on the value of an option."""

    holds: Callable[[float], bool]
    description: str  # completes "must be ..."


_POSITIVE = Rule(lambda value: value > 0, "above 0")
_NOT_NEGATIVE = Rule(lambda value: value >= 0, "0 or more")
_FRACTION = Rule(lambda value: 0 <= value <= 1, "a fraction between 0 and 1")
_PART = Rule(lambda value: 0 < value < 1, "a fraction above 0 and below 1")
_TWO_OR_MORE = Rule(lambda value: value >= 2, "at least 2")
_REPEATS = Rule(lambda value: 1 <= value <= 1000, "1 to 1000")
_FIT_SEED = Rule(lambda value: 0 <= value < 2**32 - 1000, "0 to 2**32 - 1001")  # repeats add up to 999
_SEED = Rule(lambda value: 0 <= value < 2**32, "0 to 2**32 - 1")
_PASSAGE = Rule(lambda value: value >= 16, "at least 16")
_CORPUS = Rule(lambda value: value >= 10_000, "at least 10,000")


def _option(
    default: Any, description: str, rule: Rule | None = None, group: str = "Training", metavar: str = "X"
) -> Any:
    """A field with its help text, the condition it must satisfy, and how the command line shows it."""
    metadata = {"help": description, "rule": rule, "group": group, "metavar": metavar}
    return field(default=default, metadata=metadata)


def _learning_rate(default: float) -> Any:
    return _option(default, "Peak learning rate of AdamW; it decays linearly to 0.", _POSITIVE)


def _warmup_ratio(default: float) -> Any:
    return _option(default, "Fraction of the steps during which the learning rate rises from 0.", _FRACTION)


def _bf16() -> Any:
    return _option(None, "Train in bfloat16; by default where the hardware supports it.", metavar="")


def _documented(config: type[ConfigT]) -> type[ConfigT]:
    """Append the help texts of a configuration's fields to its docstring."""
    lines = [f"    {entry.name}: {entry.metadata['help']}" for entry in fields(config)]  # type: ignore[arg-type]
    config.__doc__ = "\n".join([getdoc(config) or "", "", "Attributes:", *lines])
    return config


def _check_rules(config: Any) -> None:
    for entry in fields(config):
        value, rule = getattr(config, entry.name), entry.metadata["rule"]
        if rule is None or (value is None and entry.default is None):
            continue
        if value is None or not isfinite(value) or not rule.holds(value):
            raise CascadeError(f"{entry.name} must be {rule.description}, not {value}")


@_documented
@dataclass(frozen=True)
class FitConfig:
    """Options of training a cascade; all of them are stored in the saved folder.

    The defaults of `dar_weight` and `dar_margin` are those of the code released by Li et al. (2021).

    >>> FitConfig(epochs=0)
    Traceback (most recent call last):
    cascadebert.errors.CascadeError: epochs must be above 0, not 0
    """

    max_length: int = _option(128, "Maximum tokens per example; longer texts are truncated.", metavar="N")
    epochs: float = _option(3.0, "Passes over the training examples; may be fractional.", _POSITIVE)
    batch_size: int = _option(32, "Examples per step.", _POSITIVE, metavar="N")
    learning_rate: float = _learning_rate(5e-5)
    warmup_ratio: float = _warmup_ratio(0.0)
    bf16: bool | None = _bf16()
    dar_weight: float = _option(
        0.5,
        "Weight (lambda) of difficulty-aware regularisation on all but the last stage; 0: off.",
        _NOT_NEGATIVE,
        "Difficulty",
    )
    dar_margin: float = _option(
        0.3,
        "Margin (epsilon) by which easy examples should exceed hard ones in confidence.",
        _NOT_NEGATIVE,
        "Difficulty",
    )
    difficulty_folds: int = _option(
        3, "Folds of the cross-validation that labels difficulty.", _TWO_OR_MORE, "Difficulty", "N"
    )
    difficulty_seeds: int = _option(
        1, "Repeats of that cross-validation with other seeds; 5 in the paper.", _REPEATS, "Difficulty", "N"
    )
    difficulty_votes: float = _option(
        1.0,
        "Fraction of the repeats that must predict an example correctly for it to be easy.",
        _FRACTION,
        "Difficulty",
    )
    distill_weight: float | None = _option(
        None,
        "Weight of distilling the last stage's logits; by default 1 with unlabelled examples, else 0.",
        _NOT_NEGATIVE,
        "Distillation",
    )
    distill_temperature: float = _option(
        2.0, "Temperature that divides the logits of teacher and student.", _POSITIVE, "Distillation"
    )
    tune_fraction: float = _option(
        0.1, "Fraction of the training examples to tune on if there is no validation data.", _PART, "Data"
    )
    certify_fraction: float = _option(
        0.1,
        "Fraction of the training examples to reserve for guarantees if there is no validation data.",
        _PART,
        "Data",
    )
    seed: int = _option(1234, "Random seed.", _FIT_SEED, metavar="N")

    def __post_init__(self) -> None:
        _check_rules(self)
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
        None,
        "Tokens to train on: the corpus is sampled or repeated to have so many; by default one pass.",
        _CORPUS,
        metavar="N",
    )
    max_length: int = _option(128, "Maximum tokens per passage.", _PASSAGE, metavar="N")
    batch_tokens: int = _option(4096, "Tokens per step, padding included.", _POSITIVE, metavar="N")
    learning_rate: float = _learning_rate(2e-3)
    warmup_ratio: float = _warmup_ratio(0.05)
    bf16: bool | None = _bf16()
    seed: int = _option(1234, "Random seed.", _SEED, metavar="N")

    def __post_init__(self) -> None:
        _check_rules(self)
