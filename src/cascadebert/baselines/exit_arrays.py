"""What the exits of one model said of many rows. Pure: arrays in, values out."""

from __future__ import annotations

import secrets
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascadebert.confidence import entropy, max_probability, softmax
from cascadebert.errors import DataError
from cascadebert.types import Floats, Ints

COUNTED, MEASURED = ("answers", "label_ids"), ("confidences", "entropies", "lte")


@dataclass(frozen=True)
class ExitArrays:
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
    ) -> ExitArrays:
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

    def first(self, exits: int) -> ExitArrays:
        """What only the first so many exits said."""
        lte = None if self.lte is None else self.lte[:exits]
        kept = (self.answers[:exits], self.confidences[:exits], self.entropies[:exits])
        return ExitArrays(*kept, lte, self.label_ids)

    def take(self, positions: Ints) -> ExitArrays:
        """The rows at the given positions."""
        return ExitArrays(
            self.answers[:, positions],
            self.confidences[:, positions],
            self.entropies[:, positions],
            None if self.lte is None else self.lte[:, positions],
            None if self.label_ids is None else self.label_ids[positions],
        )

    def then(self, later: ExitArrays) -> ExitArrays:
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

    def save(self, path: Path) -> None:
        """Write an npz: integers in 16 bits, the rest as float16 (about three digits).

        A row whose entropy lies that near a threshold may be decided otherwise than when it was run.
        Equal arrays give equal bytes.
        """
        held = {name: getattr(self, name) for name in (*COUNTED, *MEASURED)}
        kinds = {name: np.int16 if name in COUNTED else np.float16 for name in held}
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.npz")
        try:
            np.savez_compressed(
                aside, **{name: one.astype(kinds[name]) for name, one in held.items() if one is not None}
            )
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> ExitArrays:
        """Read what `save` wrote.

        Raises:
            DataError: if it is no such file, or its arrays do not belong together.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                held = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not readable as exit arrays ({error})") from error
        shape = held["answers"].shape if "answers" in held else ()
        needed = {"answers": shape, "confidences": shape, "entropies": shape}
        shapes = {**needed, "lte": shape, "label_ids": shape[1:]}
        wrong = set(needed) - set(held) | {k for k, v in held.items() if shapes.get(k) != v.shape}
        if wrong or len(shape) != 2:
            raise DataError(f"{path}: missing or of another shape: {', '.join(sorted(wrong)) or 'answers'}")
        return cls(**{k: v.astype(np.int64 if k in COUNTED else np.float64) for k, v in held.items()})
