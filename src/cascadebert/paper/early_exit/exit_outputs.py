"""What the exits of one model said of many rows. Pure: arrays in, values out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cascadebert.thresholds.confidence import entropy, max_probability, softmax
from cascadebert.types import Floats, Ints

Reads = Literal["first", "mean"]
"""What an exit before the last looks at: the first token, as published, or the mean of all tokens."""


@dataclass(frozen=True)
class ExitOutputs:
    """What exits 1 to m said of n rows; all that an exit rule needs, and all that is kept of a run.

    Attributes:
        answers: (m, n) predicted label id.
        confidences: (m, n) its probability.
        entropies: (m, n) of the probabilities, in nats.
        lte: (m, n) estimated chance of being wrong (BERxiT's learning to exit), or None.
        label_ids: (n,) the true labels, or None.
    """

    answers: Ints
    confidences: Floats
    entropies: Floats
    lte: Floats | None = None
    label_ids: Ints | None = None

    @classmethod
    def of(
        cls,
        logits: NDArray[np.floating],
        lte: NDArray[np.floating] | None = None,
        label_ids: Ints | None = None,
    ) -> ExitOutputs:
        """From the exits' own logits.

        Args:
            logits: (m, n, num_labels).
            lte: (m, n).
            label_ids: (n,).
        """
        said = softmax(logits)
        doubts = None if lte is None else np.asarray(lte, dtype=np.float64)
        return cls(said.argmax(axis=-1), max_probability(said), entropy(said), doubts, label_ids)

    def __len__(self) -> int:
        return int(self.answers.shape[1])

    @property
    def exits(self) -> int:
        """How many exits have spoken."""
        return int(self.answers.shape[0])

    def first(self, exits: int) -> ExitOutputs:
        """What only the first so many exits said."""
        lte = None if self.lte is None else self.lte[:exits]
        kept = (self.answers[:exits], self.confidences[:exits], self.entropies[:exits])
        return ExitOutputs(*kept, lte, self.label_ids)

    def take(self, positions: Ints) -> ExitOutputs:
        """The rows at the given positions."""
        return ExitOutputs(
            self.answers[:, positions],
            self.confidences[:, positions],
            self.entropies[:, positions],
            None if self.lte is None else self.lte[:, positions],
            None if self.label_ids is None else self.label_ids[positions],
        )

    def then(self, later: ExitOutputs) -> ExitOutputs:
        """What further exits said of the same rows, below what these said."""
        joined = None
        if self.lte is not None and later.lte is not None:
            joined = np.concatenate([self.lte, later.lte])
        return replace(
            self,
            answers=np.concatenate([self.answers, later.answers]),
            confidences=np.concatenate([self.confidences, later.confidences]),
            entropies=np.concatenate([self.entropies, later.entropies]),
            lte=joined,
        )

    def answered(self, layers: Ints) -> Ints:
        """(n,) each row's label id from the exit it left at.

        Args:
            layers: (n,) counted from 1.
        """
        return np.asarray(self.answers[layers - 1, np.arange(len(self))])
