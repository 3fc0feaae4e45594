"""The cascade: small stages first, and only the rows they are unsure of go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cascadebert.batching import Rows
from cascadebert.calibration import scale
from cascadebert.confidence import max_probability, softmax
from cascadebert.errors import CascadeError
from cascadebert.folder import copy_folder, read_folder, upload_folder
from cascadebert.spec import CascadeSpec
from cascadebert.stage import BATCH_TOKENS, Stage, local_folder
from cascadebert.types import Bools, Floats, Logits, OperatingPoint, Predictions, Texts


@dataclass(frozen=True)
class Cascade:
    """Complete classifiers from small to large, with the thresholds at which rows leave.

    Attributes:
        stages: all with the same labels in the same order.
        temperatures: (num_stages,) each stage's logits are divided by its own.
        operating_point: the thresholds and what they gave where they were picked.
        spec: what the saved folder says of itself, or None before it is saved.
        path: the saved folder, or None.
    """

    stages: tuple[Stage, ...]
    temperatures: tuple[float, ...]
    operating_point: OperatingPoint
    spec: CascadeSpec | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        if not len(self.stages) == len(self.temperatures) == len(self.operating_point.thresholds) + 1:
            raise CascadeError(
                f"{len(self.stages)} stages need as many temperatures and one threshold less; given: "
                f"{len(self.temperatures)} and {len(self.operating_point.thresholds)}"
            )
        if len({stage.label_names for stage in self.stages}) != 1:
            raise CascadeError("the stages give their labels in different orders: use Stage.with_labels")

    @classmethod
    def from_pretrained(
        cls, path_or_repo: str | Path, *, engine: str = "auto", precision: str = "auto"
    ) -> Cascade:
        """Open a saved cascade from a folder or the Hugging Face Hub.

        Args:
            path_or_repo: the folder, or a repository.
            engine: "torch" or "auto".
            precision: "float32", "bfloat16" or "auto".

        Raises:
            FolderError: if the folder is damaged, changed or of an unknown format version.
        """
        path = local_folder(path_or_repo)
        spec = read_folder(path)
        stages = tuple(
            replace(
                Stage.from_pretrained(
                    path / entry.path, engine=engine, precision=precision, max_length=entry.max_length
                ),
                name=entry.name,
                flops=entry.flops,
            ).with_labels(spec.label_names)
            for entry in spec.stages
        )
        temperatures = tuple(entry.temperature for entry in spec.stages)
        return cls(stages, temperatures, spec.operating_point, spec, path)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, in the order of the columns of every probability array."""
        return self.stages[-1].label_names

    def predict(self, texts: Texts, *, batch_tokens: int = BATCH_TOKENS) -> Predictions:
        """Answer each text or pair at the first stage that is sure of it.

        Args:
            texts: n texts, or n pairs of texts.
            batch_tokens: budget of a batch, in padded tokens; answers do not depend on it.
        """
        return route(
            self.stages, self.temperatures, self.operating_point.thresholds, texts, batch_tokens=batch_tokens
        )

    def predict_proba(self, texts: Texts) -> Floats:
        """(n, num_labels) probabilities by the stage that answered; each row sums to 1."""
        return self.predict(texts).probabilities

    def stage_logits(self, texts: Texts) -> Logits:
        """(num_stages, n, num_labels): every stage on every row, before scaling.

        All that is decided later (thresholds, curves, reports) is decided on these arrays.
        """
        encoded = _Encodings(texts)
        return np.stack([stage.logits(encoded.by(stage)) for stage in self.stages])

    def with_operating_point(self, point: OperatingPoint) -> Cascade:
        """The same stages with other thresholds."""
        return replace(self, operating_point=point)

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the whole cascade as one folder, aside first and then renamed.

        Args:
            path: a folder that does not exist yet.
            overwrite: replace it if it does.

        Raises:
            FolderError: if it exists, or this cascade never had a folder.
        """
        copy_folder(self.path, self.spec, self.operating_point, Path(path), overwrite=overwrite)

    def push_to_hub(self, repo: str, *, private: bool | None = None) -> str:
        """Upload the saved folder to the Hugging Face Hub; needs a login there.

        Args:
            repo: "owner/name"; made if it does not exist.
            private: visibility of a new repository.

        Returns:
            The address of the commit.
        """
        return upload_folder(self.path, self.spec, self.operating_point, repo, private=private)


class _Encodings:
    """Tokens of the same texts, made once for all stages that share a tokenizer and a length."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._made: dict[str, Rows] = {}

    def by(self, stage: Stage) -> Rows:
        if stage.encoder.key not in self._made:
            self._made[stage.encoder.key] = stage.encode(self._texts)
        return self._made[stage.encoder.key]


def leaves(confidences: Floats, threshold: float | None) -> Bools:
    """(m,) True where a row leaves here: its confidence exceeds the threshold, or this is the end."""
    if threshold is None:
        return np.ones(len(confidences), dtype=np.bool_)
    return np.asarray(confidences > threshold)


def route(
    stages: Sequence[Stage],
    temperatures: Sequence[float],
    thresholds: Sequence[float],
    texts: Texts,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> Predictions:
    """Run each stage on the rows that no earlier one was sure of (Li et al. 2021, section 3.1).

    A later stage sees only the rows that were passed on, packed together, and is not called when there
    are none. A row's answer does not depend on its neighbours: its padded length is a function of the
    row alone.
    """
    if isinstance(texts, str):
        raise CascadeError("expected a list of texts (or of pairs), got one string: put it in a list")
    n, names = len(texts), stages[-1].label_names
    labels = np.empty(n, dtype=np.int64)
    probabilities = np.empty((n, len(names)))
    confidences = np.empty(n)
    exits = np.empty(n, dtype=np.int64)
    encoded = _Encodings(texts)
    active = np.arange(n)
    for number, (stage, temperature, threshold) in enumerate(
        zip(stages, temperatures, (*thresholds, None), strict=True), start=1
    ):
        if not active.size:
            break
        logits = stage.logits(encoded.by(stage), active, batch_tokens=batch_tokens)
        answer = softmax(scale(logits, temperature))
        sure = max_probability(answer)
        here = leaves(sure, threshold)
        done = active[here]
        labels[done] = answer[here].argmax(axis=1)
        probabilities[done] = answer[here]
        confidences[done] = sure[here]
        exits[done] = number
        active = active[~here]
    return Predictions(labels, probabilities, confidences, exits, names)
