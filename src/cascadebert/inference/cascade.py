"""The cascade: small stages first; only uncertain texts are deferred to larger ones."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from huggingface_hub import HfApi

from cascadebert.data.cells import as_texts
from cascadebert.data.columns import ColumnNames
from cascadebert.errors import CascadeError, DataError, FolderError
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.stage import Stage
from cascadebert.paths import check_roles
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.persistence.folder import read_folder, write_folder
from cascadebert.persistence.schema import CascadeSpec, StageSpec
from cascadebert.thresholds.confidence import Score
from cascadebert.thresholds.operating_point import OperatingPoint
from cascadebert.thresholds.routing import decide
from cascadebert.types import Floats, Ints, Logits, Predictions, TextInput, Texts


@dataclass(frozen=True)
class Cascade:
    """Complete classifiers from small to large, with the thresholds at which texts exit.

    Attributes:
        stages: the classifiers, all with the same labels in the same order.
        temperatures: (num_stages,) divisors of each stage's logits.
        operating_point: the thresholds, and what was measured where they were selected.
        spec: description of the saved folder, or None before the cascade is saved.
        path: the saved folder, or None.
        score: the confidence score that is compared with the thresholds.

    Raises:
        CascadeError: if the numbers of stages, temperatures and thresholds do not match, or the labels of the
            stages differ.
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
            engine: "openvino", "onnxruntime", "torch", or "auto": the one that thresholds were selected on.
            precision: "float32", "bfloat16", "int8", or "auto": that of the thresholds where the engine is
                theirs, else the engine's own choice.

        Raises:
            FolderError: if the folder is damaged, changed or of an unknown format version.
            StageError: if the engine or the precision is not available; no other is used instead.
        """
        path = resolve_checkpoint(path_or_repo)
        spec = read_folder(path)
        return cls.from_stages(load_stages(path, spec, spec.stages, engine, precision), spec, path)

    @classmethod
    def from_stages(cls, stages: tuple[Stage, ...], spec: CascadeSpec, path: Path) -> Cascade:
        """The cascade that a folder describes, with stages that are already loaded."""
        temperatures = tuple(entry.temperature for entry in spec.stages)
        return cls(stages, temperatures, spec.operating_point, spec, path, spec.score)

    @property
    def uncertified_reason(self) -> str | None:
        """Why the measurements and guarantees of the thresholds do not hold; None where they hold.

        They belong to one engine and precision (and to the tokenizers and maximum lengths, which are
        fixed in the folder).
        """
        spec, engine = self.spec, self.stages[-1].engine
        if not spec or not spec.tuned_on or self.operating_point.thresholds not in spec.known_thresholds:
            return "its thresholds were set by hand"
        tuned = (spec.tuned_on.engine, spec.tuned_on.precision, spec.tuned_on.device)
        current = (engine.name, engine.precision, engine.device)
        if current == tuned:
            return None
        return (
            f"its thresholds were selected on {' '.join(tuned)}, this is {' '.join(current)}. Select them "
            f"here with `cascadebert tune --engine {engine.name} --precision {engine.precision}`."
        )

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, in the order of the columns of every probability array."""
        return self.stages[-1].label_names

    @property
    def remembered_columns(self) -> ColumnNames | None:
        """The columns that were named when it was made, if any; in data they are looked for first."""
        return None if self.spec is None else self.spec.columns

    def predict(self, texts: TextInput) -> Predictions:
        """Classify each text or pair at the first stage whose confidence exceeds its threshold.

        Args:
            texts: n texts, or n pairs of texts: a list, a NumPy array, a column of pandas, polars, datasets
                or Arrow, or another iterable, which is read to its end.

        Raises:
            DataError: if it is given one string, a table, something that is not a text (with its place), or
                pairs where the cascade was made for single texts (or the other way round).
        """
        # Li et al. 2021, section 3.1. A later stage runs only on the texts that all earlier stages deferred,
        # batched afresh, and is not called if there are none. The prediction for a text does not depend on
        # the others: its padded length is a function of it alone.
        checked = self._as_texts(texts)
        n, label_names = len(checked), self.label_names
        probabilities, confidences = np.empty((n, len(label_names))), np.empty(n)
        exits, truncated = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.bool_)
        active, cache = np.arange(n), TokenCache(checked)
        earlier: list[Floats] = []  # probabilities of the active texts at earlier stages, for a learned score
        thresholds = (*self.operating_point.thresholds, None)
        stages = zip(self.stages, self.temperatures, thresholds, strict=True)
        for number, (stage, temperature, threshold) in enumerate(stages, start=1):
            if not active.size:
                break
            tokens, indices = cache.get(stage, active)
            decision = decide(
                stage.logits(tokens, indices),
                temperature=temperature,
                score=self.score,
                threshold=threshold,
                earlier=earlier,
            )
            exiting, deferred = decision.exits, ~decision.exits
            done = active[exiting]
            probabilities[done] = decision.probabilities[exiting]
            confidences[done] = decision.confidences[exiting]
            exits[done], truncated[done] = number, tokens.truncated[indices[exiting]]
            active = active[deferred]
            earlier = [array[deferred] for array in (*earlier, decision.probabilities)]
        labels = probabilities.argmax(axis=1)
        return Predictions(labels, probabilities, confidences, exits, truncated, label_names)

    def predict_proba(self, texts: TextInput) -> Floats:
        """(n, num_labels) probabilities of the stage at which each text exits; each row sums to 1."""
        return self.predict(texts).probabilities

    def stage_logits(self, texts: TextInput) -> Logits:
        """(num_stages, n, num_labels) logits of every stage for every text, before scaling.

        Thresholds, curves and reports are computed from these arrays, without further forward passes.
        """
        encoded = self.encode(texts)
        return np.stack([stage.logits(tokens) for stage, tokens in zip(self.stages, encoded, strict=True)])

    def encode(self, texts: TextInput) -> list[TokenizedTexts]:
        """Each stage's tokens of the texts, made once for stages that share a tokenizer and a length."""
        checked = self._as_texts(texts)
        cache, indices = TokenCache(checked), np.arange(len(checked))
        return [cache.get(stage, indices)[0] for stage in self.stages]

    def _as_texts(self, texts: TextInput) -> Texts:
        checked = as_texts(texts)
        self.check_input_kind(checked)
        return checked

    def without_tokens(self, texts: Texts) -> list[int]:
        """Indices of the texts or pairs of which a stage's tokenizer leaves no token."""
        tokenizers = {stage.tokenizer.key: stage.tokenizer for stage in self.stages}.values()
        return sorted({i for tokenizer in tokenizers for i in tokenizer.without_tokens(texts)})

    def check_input_kind(self, texts: Texts) -> None:
        """Check that pairs are given only where the cascade was made for pairs, and single texts otherwise.

        Raises:
            DataError: if they are not.
        """
        if self.spec is not None:
            check_input_kind(self.spec, texts)

    def with_operating_point(self, point: OperatingPoint) -> Cascade:
        """The same stages with other thresholds."""
        return replace(self, operating_point=point)

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the whole cascade as one folder, atomically.

        Args:
            path: a folder that does not exist yet.
            overwrite: replace it if it does.

        Raises:
            CascadeError: if it exists or cannot be written, or this cascade was never saved by `fit` or
                `assemble`.
        """
        if self.path is None or self.spec is None:
            raise FolderError("this cascade was never saved; make it with fit() or assemble()")
        if not (Path(path).exists() and self.path.samefile(path)):  # replaces itself atomically
            check_roles({"the new folder": path}, {"the cascade": self.path})
        spec = self.spec.with_operating_point(self.operating_point)
        content = {entry.name: entry for entry in self.path.iterdir()}
        write_folder(Path(path), spec, content, overwrite=overwrite)

    def push_to_hub(self, repo: str, *, private: bool | None = None) -> str:
        """Upload the saved folder to the Hugging Face Hub; needs a login there.

        Args:
            repo: "owner/name"; created if it does not exist.
            private: visibility of a new repository.

        Returns:
            The address of the commit.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cascade"
            self.save_pretrained(path)
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=path, commit_message="Upload a cascade")
        return str(commit.commit_url)


def check_input_kind(spec: CascadeSpec, texts: Texts) -> None:
    """Raise DataError if texts are given where a saved cascade was made for pairs, or the other way round."""
    if len(texts):
        check_texts_per_row(spec, 1 if isinstance(texts[0], str) else 2)


def check_texts_per_row(spec: CascadeSpec, texts_per_row: int) -> None:
    """The same for the number of texts in a row."""
    if texts_per_row != spec.texts_per_row:
        kinds = {1: "single texts", 2: "pairs of texts"}
        expected, actual = kinds[spec.texts_per_row], kinds[texts_per_row]
        raise DataError(f"this cascade was made for {expected}, got {actual}")


def tuned_engine(spec: CascadeSpec, engine: str, precision: str) -> tuple[str, str]:
    """The engine and precision to load a saved cascade with, as in `from_pretrained`."""
    tuned = spec.tuned_on
    if tuned is None or engine not in ("auto", tuned.engine):
        return engine, precision
    return tuned.engine, tuned.precision if precision == "auto" else precision


def load_stages(
    path: Path, spec: CascadeSpec, entries: Sequence[StageSpec], engine: str, precision: str
) -> tuple[Stage, ...]:
    """Load the stages of the given entries of a saved cascade; engine and precision as in `from_pretrained`.

    Raises StageError if the engine or the precision is not available.
    """
    engine, precision = tuned_engine(spec, engine, precision)
    stages = []
    for entry in entries:
        stage = Stage.from_pretrained(
            path / entry.path,
            engine=engine,
            precision=precision,
            max_length=entry.max_length,
            padding_side=entry.padding_side,
        )
        stages.append(replace(stage, name=entry.name, flops=entry.flops).with_labels(spec.label_names))
    return tuple(stages)


class TokenCache:
    """Tokens of the same texts, made once for all stages that share a tokenizer and a length."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._cache: dict[str, tuple[TokenizedTexts, Ints]] = {}

    def get(self, stage: Stage, active: Ints) -> tuple[TokenizedTexts, Ints]:
        """Tokens that include the active texts, and the (m,) indices of these among them.

        `active` is (m,) ascending. Only these texts are tokenized when a tokenizer is first used; later
        calls ask for some of them.
        """
        if stage.tokenizer.key not in self._cache:
            every = len(active) == len(self._texts)
            texts = self._texts if every else [self._texts[i] for i in active]
            self._cache[stage.tokenizer.key] = stage.tokenizer.encode(texts, active), active
        tokens, tokenized = self._cache[stage.tokenizer.key]
        return tokens, np.searchsorted(tokenized, active)
