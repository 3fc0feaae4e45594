"""One complete classifier: its own tokenizer, its own configuration, an engine that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cascadebert.errors import StageError
from cascadebert.inference.batching import TokenizedTexts, length_batches
from cascadebert.inference.engines.base import Engine, TokenBatch
from cascadebert.inference.engines.load import load_engine
from cascadebert.inference.tokenizer import StageTokenizer, resolve_max_length
from cascadebert.persistence.checkpoint_config import (
    config_int,
    config_label_names,
    read_config,
    resolve_checkpoint,
)
from cascadebert.thresholds.confidence import max_probability, softmax
from cascadebert.types import Flops, Ints, Logits, Predictions, Texts

BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Stage:
    """One complete classifier, ready to run.

    Attributes:
        name: what it was made from, for people.
        path: its folder, which plain `transformers` opens too.
        label_names: in the order of the columns of its logits.
        layers: number of transformer layers.
        hidden: width of a layer.
        encoder: its tokenizer.
        engine: what runs it.
        flops: of one row, where known.
        batch_tokens: budget of a batch, in padded tokens; answers do not depend on it.
        columns: order in which the checkpoint's own labels are given out.
    """

    name: str
    path: Path
    label_names: tuple[str, ...]
    layers: int
    hidden: int
    tokenizer: StageTokenizer
    engine: Engine
    flops: Flops | None = None
    batch_tokens: int = BATCH_TOKENS
    columns: tuple[int, ...] | None = None

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        *,
        engine: str = "auto",
        precision: str = "auto",
        max_length: int | None = None,
    ) -> Stage:
        """Open a fine-tuned classifier from a folder or the Hugging Face Hub.

        Args:
            path_or_repo: a folder with config.json, model.safetensors and tokenizer.json, or a repository.
            engine: "openvino", "onnxruntime", "torch" or "auto" (see `load_engine`).
            precision: "float32", "bfloat16" or "auto" for the engine's own choice.
            max_length: longest row in tokens; default 128, or less where the model reads less.

        Raises:
            StageError: if it is not one complete single-label classifier.
        """
        path = resolve_checkpoint(path_or_repo)
        config = read_config(path)
        labels = config_label_names(config, path)
        return cls(
            name=Path(str(path_or_repo)).name,
            path=path,
            label_names=labels,
            layers=config_int(config, "num_hidden_layers", path),
            hidden=config_int(config, "hidden_size", path),
            tokenizer=StageTokenizer(path, max_length=resolve_max_length(config, max_length, path)),
            engine=load_engine(path, engine=engine, precision=precision),
        )

    @cached_property
    def num_labels(self) -> int:
        """Number of labels."""
        return len(self.label_names)

    def encode(self, texts: Texts) -> TokenizedTexts:
        """Tokens of each text or pair."""
        return self.tokenizer.encode(texts)

    def logits(self, rows: TokenizedTexts, positions: Ints | None = None) -> Logits:
        """Logits of the rows at the given positions.

        Batches hold rows of one padded length, and as many run at the same time as the engine likes.

        Args:
            rows: tokens from `encode`.
            positions: (m,) which rows; default all.

        Returns:
            (m, num_labels) in the order of `positions`.
        """
        wanted = np.arange(len(rows)) if positions is None else positions
        place = np.empty(len(rows), dtype=np.int64)
        place[wanted] = np.arange(len(wanted))
        answers = np.empty((len(wanted), self.num_labels), dtype=np.float32)

        def run(batch: Ints) -> None:
            answers[place[batch]] = self.run(rows.batch(batch))

        lengths, streams = rows.padded_lengths, self.engine.streams
        budget = min(self.batch_tokens, max(1, int(lengths[wanted].sum()) // streams))
        run_in_parallel(run, list(length_batches(lengths, wanted, tokens=budget)), streams)
        return answers

    def run(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) logits of one batch, as it is given."""
        answers = self.engine.logits(batch)
        return answers if self.columns is None else answers[:, list(self.columns)]

    def predict(self, texts: Texts) -> Predictions:
        """Answers of this stage alone."""
        probabilities = softmax(self.logits(self.encode(texts)))
        return Predictions(
            label_ids=probabilities.argmax(axis=1),
            probabilities=probabilities,
            confidences=max_probability(probabilities),
            stages=np.ones(len(texts), dtype=np.int64),
            label_names=self.label_names,
        )

    def with_labels(self, names: Sequence[str]) -> Stage:
        """This stage with the columns of its logits in the order of `names`, matched by name.

        Raises:
            StageError: if the labels are not the same; shows both lists.
        """
        own = config_label_names(read_config(self.path), self.path)
        if sorted(own) != sorted(names):
            raise StageError(
                f"the labels of {self.name} are not the expected ones. Its config.json: {', '.join(own)}. "
                f"Expected: {', '.join(names)}."
            )
        return replace(self, label_names=tuple(names), columns=tuple(own.index(name) for name in names))


def run_in_parallel(run: Callable[[Ints], object], length_batches: Sequence[Ints], streams: int) -> None:
    """Run each batch, so many at the same time."""
    if streams == 1 or len(length_batches) < 2:
        for batch in length_batches:
            run(batch)
        return
    with ThreadPoolExecutor(streams) as threads:
        for _ in threads.map(run, length_batches):
            pass
