"""Outputs of the exits of a model that can predict after any layer, and the rules by which texts exit.

A rule sees only the outputs of the exits so far for a text itself, so the exit of a text does not depend on
the rest of its batch, and the same rule works on stored outputs and inside the running model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isnan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from cascadebert.errors import CascadeError
from cascadebert.thresholds.confidence import entropy, max_probability, softmax
from cascadebert.types import Bools, Floats, Ints, Logits

Reads = Literal["first", "mean"]
"""Input of an exit before the last: the first token, as published, or the mean of all tokens."""
EXIT_ARRAYS = ("predictions", "confidences", "entropies", "lte")


@dataclass(frozen=True)
class ExitOutputs:
    """Outputs of exits 1 to m on n texts."""

    predictions: Ints  # (m, n) label ids
    confidences: Floats  # (m, n) maximum probability
    entropies: Floats  # (m, n) of the probabilities, in nats
    lte: Floats | None = None  # (m, n) estimated probability of an error (BERxiT's learning to exit)
    label_ids: Ints | None = None  # (n,) the true labels

    @classmethod
    def from_logits(
        cls, logits: Logits, lte: Logits | None = None, label_ids: Ints | None = None
    ) -> ExitOutputs:
        """Outputs of exits with (m, n, num_labels) logits and (m, n) error probabilities."""
        probabilities = softmax(logits)
        errors = None if lte is None else np.asarray(lte, dtype=np.float64)
        confidences = max_probability(probabilities)
        return cls(probabilities.argmax(axis=-1), confidences, entropy(probabilities), errors, label_ids)

    def __len__(self) -> int:
        return int(self.predictions.shape[1])

    @property
    def num_exits(self) -> int:
        """Number of exits, m."""
        return int(self.predictions.shape[0])

    @property
    def labels(self) -> Ints:
        """(n,) the true label ids, of outputs that have them."""
        assert self.label_ids is not None
        return self.label_ids

    def first(self, exits: int) -> ExitOutputs:
        """Outputs of the first exits only."""
        return self._map(lambda table: table[:exits])

    def take(self, positions: Ints | slice) -> ExitOutputs:
        """Outputs for the texts at the given positions."""
        label_ids = None if self.label_ids is None else self.label_ids[positions]
        return replace(self._map(lambda table: table[:, positions]), label_ids=label_ids)

    def append(self, *later: ExitOutputs) -> ExitOutputs:
        """These outputs followed by those of later exits for the same texts."""
        return self._map(lambda *tables: np.concatenate(tables), *later)

    def predictions_at(self, exits: Ints) -> Ints:
        """(n,) label id of each text from the exit that it takes, counted from 1."""
        return np.asarray(self.predictions[exits - 1, np.arange(len(self))])

    def _map(self, function: Callable[..., NDArray[Any]], *later: ExitOutputs) -> ExitOutputs:
        # an array that is missing in any of the outputs is missing in the result
        changed: dict[str, Any] = {}
        for name in EXIT_ARRAYS:
            tables = [getattr(outputs, name) for outputs in (self, *later)]
            changed[name] = None if any(table is None for table in tables) else function(*tables)
        return replace(self, **changed)


class ExitRule(ABC):
    """Decides at an exit which texts take it; all of them take the last."""

    needs_lte = False

    def evaluated_exits(self, num_exits: int) -> Bools:
        """(num_exits,) True for exits whose classifiers are computed for a text that reaches them."""
        return np.ones(num_exits, dtype=np.bool_)

    @abstractmethod
    def should_exit(self, outputs: ExitOutputs, number: int) -> Bools:
        """(n,) True for texts that take exit `number`, counted from 1; its outputs are the last."""


@dataclass(frozen=True)
class _ThresholdRule(ExitRule):
    threshold: float

    def __post_init__(self) -> None:
        if isnan(self.threshold):
            raise CascadeError("a threshold is a number, not NaN")


@dataclass(frozen=True)
class EntropyThreshold(_ThresholdRule):
    """Exit when the entropy is below a threshold S in nats (DeeBERT: Xin et al. 2020, section 3.2).

    At 0 or less no text exits early, above log(num_labels) all exit at once.
    """

    @override
    def should_exit(self, outputs: ExitOutputs, number: int) -> Bools:
        return np.asarray(outputs.entropies[-1] < self.threshold)


@dataclass(frozen=True)
class ConfidenceThreshold(_ThresholdRule):
    """Exit when the maximum probability is above a threshold (SWEET: Rotem et al. 2023)."""

    @override
    def should_exit(self, outputs: ExitOutputs, number: int) -> Bools:
        return np.asarray(outputs.confidences[-1] > self.threshold)


@dataclass(frozen=True)
class LearnedExitThreshold(_ThresholdRule):
    """Exit when the learned probability u of an error is below a threshold (BERxiT: Xin et al. 2021).

    The paper learns the probability of being right, 1 - u, and requires more than a threshold. Raises
    CascadeError if the model has not learned to exit.
    """

    needs_lte = True

    @override
    def should_exit(self, outputs: ExitOutputs, number: int) -> Bools:
        if outputs.lte is None:
            raise CascadeError(
                "this model has not learned when to exit; use EntropyThreshold, or train BERxiT"
            )
        return np.asarray(outputs.lte[-1] < self.threshold)


@dataclass(frozen=True)
class Patience(ExitRule):
    """Exit when the prediction has repeated `times` layers in a row (PABEE: Zhou et al. 2020).

    At least `times + 1` layers run; at 0 all texts exit after the first layer.
    """

    times: int

    def __post_init__(self) -> None:
        if self.times < 0:
            raise CascadeError(f"patience is a number of layers from 0, not {self.times}")

    @override
    def should_exit(self, outputs: ExitOutputs, number: int) -> Bools:
        newest = outputs.predictions[-self.times - 1 :]
        return np.asarray((newest == newest[-1]).all(axis=0) & (outputs.num_exits > self.times))


@dataclass(frozen=True)
class FixedExit(ExitRule):
    """All texts take one exit, counted from 1; no other is computed.

    At the last exit this switches early exit off. Raises CascadeError for a model without such an exit.
    """

    number: int

    @override
    def evaluated_exits(self, num_exits: int) -> Bools:
        if not 1 <= self.number <= num_exits:
            raise CascadeError(f"the model has exits 1 to {num_exits}, not {self.number}")
        return np.asarray(np.arange(1, num_exits + 1) == self.number)

    @override
    def should_exit(self, outputs: ExitOutputs, number: int) -> Bools:
        return np.full(len(outputs), number == self.number)


EXIT_RULES: dict[str, Callable[[float], ExitRule]] = {
    "entropy": EntropyThreshold,
    "confidence": ConfidenceThreshold,
    "learned": LearnedExitThreshold,
    "patience": lambda times: Patience(int(times)),
    "fixed": lambda number: FixedExit(int(number)),
}


def exits_taken(rule: ExitRule, outputs: ExitOutputs) -> Ints:
    """(n,) exit that each text takes, counted from 1, from the outputs of all exits of the model."""
    taken = np.full(len(outputs), outputs.num_exits, dtype=np.int64)
    active = np.ones(len(outputs), dtype=np.bool_)
    for number in (np.flatnonzero(rule.evaluated_exits(outputs.num_exits)[:-1]) + 1).tolist():
        exiting = active & rule.should_exit(outputs.first(number), number)
        taken[exiting] = number
        active &= ~exiting
    return taken
