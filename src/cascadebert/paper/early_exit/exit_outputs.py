"""Outputs of all exits of a model, which is all that an exit rule needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cascadebert.thresholds.confidence import entropy, max_probability, softmax
from cascadebert.types import Floats, Ints

Reads = Literal["first", "mean"]
"""Input of an exit before the last: the first token, as published, or the mean of all tokens."""


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
        cls,
        logits: NDArray[np.floating],
        lte: NDArray[np.floating] | None = None,
        label_ids: Ints | None = None,
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

    def first(self, exits: int) -> ExitOutputs:
        """Outputs of the first exits only."""
        return self._map(lambda table: table[:exits])

    def take(self, positions: Ints) -> ExitOutputs:
        """Outputs for the texts at the given positions."""
        taken = self._map(lambda table: table[:, positions])
        return taken if self.label_ids is None else replace(taken, label_ids=self.label_ids[positions])

    def append(self, *later: ExitOutputs) -> ExitOutputs:
        """These outputs followed by those of later exits for the same texts."""
        parts = (self, *later)
        lte = [part.lte for part in parts if part.lte is not None]
        return ExitOutputs(
            np.concatenate([part.predictions for part in parts]),
            np.concatenate([part.confidences for part in parts]),
            np.concatenate([part.entropies for part in parts]),
            np.concatenate(lte) if len(lte) == len(parts) else None,
            self.label_ids,
        )

    def predictions_at(self, layers: Ints) -> Ints:
        """(n,) label id of each text from the exit after its layer, counted from 1."""
        return np.asarray(self.predictions[layers - 1, np.arange(len(self))])

    def _map(self, select: Callable[[NDArray[Any]], NDArray[Any]]) -> ExitOutputs:
        return replace(
            self,
            predictions=select(self.predictions),
            confidences=select(self.confidences),
            entropies=select(self.entropies),
            lte=None if self.lte is None else select(self.lte),
        )
