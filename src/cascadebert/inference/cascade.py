"""The cascade: small stages first, and only the rows they are unsure of go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cascadebert.errors import CascadeError, DataError
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.stage import Stage
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.persistence.folder import copy_folder, read_folder, upload_folder
from cascadebert.persistence.schema import CascadeSpec, StageSpec
from cascadebert.thresholds.confidence import Score
from cascadebert.thresholds.operating_point import OperatingPoint
from cascadebert.thresholds.routing import decide
from cascadebert.types import Floats, Ints, Logits, Predictions, Texts


@dataclass(frozen=True)
class Cascade:
    """Complete classifiers from small to large, with the thresholds at which rows leave.

    Attributes:
        stages: all with the same labels in the same order.
        temperatures: (num_stages,) each stage's logits are divided by its own.
        operating_point: the thresholds and what they gave where they were picked.
        spec: what the saved folder says of itself, or None before it is saved.
        path: the saved folder, or None.
        score: what is compared with the thresholds.
    """

    stages: tuple[Stage, ...]
    temperatures: tuple[float, ...]
    operating_point: OperatingPoint
    spec: CascadeSpec | None = None
    path: Path | None = None
    score: Score = field(default_factory=Score)

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
            engine: "openvino", "onnxruntime", "torch", or "auto": the one that thresholds were picked on.
            precision: "float32", "bfloat16", or "auto": that of the thresholds where the engine is theirs,
                else the engine's own choice.

        Raises:
            FolderError: if the folder is damaged, changed or of an unknown format version.
            StageError: if the engine or the precision cannot be had here; nothing is put in its place.
        """
        path = resolve_checkpoint(path_or_repo)
        spec = read_folder(path)
        return cls.of_stages(load_stages(path, spec, spec.stages, engine, precision), spec, path)

    @classmethod
    def of_stages(cls, stages: tuple[Stage, ...], spec: CascadeSpec, path: Path) -> Cascade:
        """The cascade that a folder describes, of stages that are open already."""
        temperatures = tuple(entry.temperature for entry in spec.stages)
        return cls(stages, temperatures, spec.operating_point, spec, path, spec.score)

    @property
    def uncertified_reason(self) -> str | None:
        """Why nothing that was measured or promised of the thresholds holds here; None where it does.

        They belong to one engine and precision (and to the tokenizers and maximum lengths, which are
        fixed in the folder).
        """
        tuned = None if self.spec is None else self.spec.tuned_on
        if (
            self.spec is None
            or tuned is None
            or self.operating_point.thresholds not in self.spec.known_points
        ):
            return "its thresholds were set by hand"
        engine = self.stages[-1].engine
        here = (engine.name, engine.precision, engine.device)
        there = (tuned.engine, tuned.precision, tuned.device)
        if here == there:
            return None
        return (
            f"its thresholds were picked on {' '.join(there)}, this is {' '.join(here)}. Pick them here with "
            f"`cascadebert tune --engine {engine.name} --precision {engine.precision}`."
        )

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, in the order of the columns of every probability array."""
        return self.stages[-1].label_names

    def predict(self, texts: Texts) -> Predictions:
        """Answer each text or pair at the first stage that is sure of it.

        Args:
            texts: n texts, or n pairs of texts.

        Raises:
            DataError: if it is given one string, something that is no text, or pairs where the cascade was
                made for single texts (or the other way round).
        """
        self.check_input_kind(texts)
        return route(self.stages, self.temperatures, self.operating_point.thresholds, texts, self.score)

    def predict_proba(self, texts: Texts) -> Floats:
        """(n, num_labels) probabilities by the stage that answered; each row sums to 1."""
        return self.predict(texts).probabilities

    def stage_logits(self, texts: Texts) -> Logits:
        """(num_stages, n, num_labels): every stage on every row, before scaling.

        All that is decided later (thresholds, curves, reports) is decided on these arrays.
        """
        self.check_input_kind(texts)
        encoded = self.encode(texts)
        return np.stack([s.logits(rows) for s, rows in zip(self.stages, encoded, strict=True)])

    def encode(self, texts: Texts) -> list[TokenizedTexts]:
        """Each stage's tokens of the texts, made once for stages that share a tokenizer and a length."""
        encoded, every = TokenCache(texts), np.arange(len(texts))
        return [encoded.of(stage, every)[0] for stage in self.stages]

    def check_input_kind(self, texts: Texts) -> None:
        """Refuse pairs where the cascade was made for single texts, and the other way round.

        Raises:
            DataError: then.
        """
        if self.spec is None or isinstance(texts, str) or not len(texts):
            return
        given = 1 if isinstance(texts[0], str) else 2
        if given != self.spec.texts_per_row:
            kinds = {1: "single texts", 2: "pairs of texts"}
            raise DataError(f"this cascade was made for {kinds[self.spec.texts_per_row]}, got {kinds[given]}")

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


def load_stages(
    path: Path, spec: CascadeSpec, entries: Sequence[StageSpec], engine: str, precision: str
) -> tuple[Stage, ...]:
    """Open stages of a saved cascade, on the engine that its thresholds were picked on unless told another.

    Args:
        path: the cascade's folder.
        spec: what it says of itself.
        entries: of the stages to open.
        engine: as for `Cascade.from_pretrained`.
        precision: as for `Cascade.from_pretrained`.

    Raises:
        StageError: if the engine or the precision cannot be had here.
    """
    tuned = spec.tuned_on
    if tuned is not None and engine in ("auto", tuned.engine):
        engine, precision = tuned.engine, tuned.precision if precision == "auto" else precision
    opened = []
    for entry in entries:
        stage = Stage.from_pretrained(
            path / entry.path, engine=engine, precision=precision, max_length=entry.max_length
        )
        named = replace(stage, name=entry.name, flops=entry.flops)
        opened.append(named.with_labels(spec.label_names))
    return tuple(opened)


class TokenCache:
    """Tokens of the same texts, made once for all stages that share a tokenizer and a length."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._made: dict[str, tuple[TokenizedTexts, Ints]] = {}

    def of(self, stage: Stage, active: Ints) -> tuple[TokenizedTexts, Ints]:
        """Rows that hold the active texts, and their places there.

        Args:
            stage: whose tokenizer.
            active: (m,) which texts, in rising order; only these when a tokenizer is first used, and later
                some of them.
        """
        if stage.tokenizer.key not in self._made:
            every = len(active) == len(self._texts)
            some = self._texts if every else [self._texts[i] for i in active]
            self._made[stage.tokenizer.key] = stage.encode(some), active
        rows, where = self._made[stage.tokenizer.key]
        return rows, np.searchsorted(where, active)


def route(
    stages: Sequence[Stage],
    temperatures: Sequence[float],
    thresholds: Sequence[float],
    texts: Texts,
    score: Score = Score(),  # noqa: B008 - frozen
) -> Predictions:
    """Run each stage on the rows that no earlier one was sure of (Li et al. 2021, section 3.1).

    A later stage sees only the rows that were passed on, packed together, and is not called when there
    are none. A row's answer does not depend on its neighbours: its padded length is a function of the
    row alone.
    """
    n, names = len(texts), stages[-1].label_names
    labels = np.empty(n, dtype=np.int64)
    probabilities = np.empty((n, len(names)))
    confidences = np.empty(n)
    exits = np.empty(n, dtype=np.int64)
    encoded = TokenCache(texts)
    active, earlier = np.arange(n), list[Floats]()
    for number, (stage, temperature, threshold) in enumerate(
        zip(stages, temperatures, (*thresholds, None), strict=True), start=1
    ):
        if not active.size:
            break
        decision = decide(
            stage.logits(*encoded.of(stage, active)),
            temperature=temperature,
            score=score,
            threshold=threshold,
            earlier=earlier,
        )
        leaving = decision.exits
        done = active[leaving]
        labels[done] = decision.probabilities[leaving].argmax(axis=1)
        probabilities[done] = decision.probabilities[leaving]
        confidences[done] = decision.confidences[leaving]
        exits[done] = number
        active = active[~leaving]
        earlier = [p[~leaving] for p in (*earlier, decision.probabilities)] if score.weights else []
    return Predictions(labels, probabilities, confidences, exits, names)
