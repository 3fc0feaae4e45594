"""Every default of training, in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from cascadebert.errors import CascadeError


@dataclass(frozen=True)
class FitConfig:
    """How stages are trained; all of it is stored in the saved folder.

    Attributes:
        max_length: longest row in tokens; longer texts are cut.
        epochs: passes over the train rows; fractions are allowed.
        batch_size: rows per step.
        learning_rate: of AdamW, falling linearly to 0.
        warmup_ratio: share of the steps in which it rises linearly from 0.
        bf16: matrix products of training in bfloat16; None asks the processor.
        dar_weight: lambda of difficulty-aware regularisation, on every stage but the last; 0 turns it
            off (Li et al. 2021; 0.5 as in their release).
        dar_margin: epsilon, by how much an easy row's confidence should exceed a hard row's (0.3 as in
            their release).
        difficulty_folds: folds of the cross-prediction behind difficulty labels.
        difficulty_seeds: how often it is repeated with another seed (the paper: 5).
        difficulty_votes: a row is easy if at least this share of the repeats predicts it rightly.
        distill_weight: weight of learning the last stage's logits, in the earlier stages; 0 is off; None
            is 1 where unlabelled rows are given and else 0.
        distill_temperature: both sides' logits are divided by it.
        tune_share: share of the train rows to tune on, where no validation rows are given.
        certify_share: share of the train rows kept for guarantees, where none are given.
        seed: of everything random.

    >>> FitConfig(epochs=0)
    Traceback (most recent call last):
    cascadebert.errors.CascadeError: epochs must be above 0, not 0
    """

    max_length: int = 128
    epochs: float = 3.0
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup_ratio: float = 0.0
    bf16: bool | None = None
    dar_weight: float = 0.5
    dar_margin: float = 0.3
    difficulty_folds: int = 3
    difficulty_seeds: int = 1
    difficulty_votes: float = 1.0
    distill_weight: float | None = None
    distill_temperature: float = 2.0
    tune_fraction: float = 0.1
    certify_fraction: float = 0.1
    seed: int = 1234

    def __post_init__(self) -> None:
        _check(self, _RULES)
        if self.tune_fraction + self.certify_fraction >= 1:
            raise CascadeError("tune_share and certify_share together must leave rows to train on")


@dataclass(frozen=True)
class DistillConfig:
    """How smaller models are made from a large one; all of it is stored in their README.

    Attributes:
        max_tokens: to train on, in all; default the corpus once. More than the corpus has means several passes,
            fewer that documents are drawn from all over it.
        vocabulary: keep this many tokens, the most frequent of the corpus; default all.
        max_length: longest passage in tokens.
        batch_tokens: tokens per step.
        learning_rate: of AdamW, falling linearly to 0.
        warmup_ratio: share of the steps in which it rises linearly from 0.
        bf16: matrix products in bfloat16; None asks the processor.
        seed: of everything random.
    """

    max_tokens: int | None = None
    vocabulary: int | None = None
    max_length: int = 128
    batch_tokens: int = 4096
    learning_rate: float = 2e-3
    warmup_ratio: float = 0.05
    bf16: bool | None = None
    seed: int = 1234

    def __post_init__(self) -> None:
        _check(self, _SHRINK_RULES)


Rules = tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...]


def _check(config: FitConfig | DistillConfig, rules: Rules) -> None:
    for names, holds, words in rules:
        for name in names:
            value = getattr(config, name)
            optional = value is None and type(config).__dataclass_fields__[name].default is None
            if not optional and not (value is not None and isfinite(value) and holds(value)):
                raise CascadeError(f"{name} must be {words}, not {value}")


_SHRINK_RULES: Rules = (
    (("max_tokens",), lambda v: v >= 10_000, "at least 10,000"),
    (("max_length",), lambda v: v >= 16, "at least 16"),
    (("vocabulary", "batch_tokens", "learning_rate"), lambda v: v > 0, "above 0"),
    (("warmup_ratio",), lambda v: 0 <= v <= 1, "a share between 0 and 1"),
    (("seed",), lambda v: 0 <= v < 2**32, "0 to 2**32 - 1"),
)

_RULES: Rules = (
    (("epochs", "batch_size", "learning_rate", "distill_temperature"), lambda v: v > 0, "above 0"),
    (("dar_weight", "dar_margin", "distill_weight"), lambda v: v >= 0, "0 or more"),
    (("warmup_ratio", "difficulty_votes"), lambda v: 0 <= v <= 1, "a share between 0 and 1"),
    (("tune_fraction", "certify_fraction"), lambda v: 0 < v < 1, "a share above 0 and below 1"),
    (("difficulty_folds",), lambda v: v >= 2, "at least 2"),
    (("difficulty_seeds",), lambda v: 1 <= v <= 1000, "1 to 1000"),
    (("seed",), lambda v: 0 <= v < 2**32 - 1000, "0 to 2**32 - 1001"),
)
