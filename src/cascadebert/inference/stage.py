"""One complete classifier: its own tokenizer, its own configuration and an engine that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
        name: the checkpoint it was made from, for display.
        path: its folder, which plain `transformers` opens too.
        label_names: the labels, in the order of the columns of its logits.
        layers: number of transformer layers.
        hidden: width of a layer.
        tokenizer: its tokenizer.
        engine: the engine that runs it.
        flops: floating-point operations of one text, where known.
        batch_tokens: budget of a batch, in padded tokens; predictions do not depend on it.
        columns: the checkpoint's own label ids in the order of `label_names`; None if they agree.
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
            max_length: longest text in tokens; default 128, or less where the model reads less.

        Raises:
            StageError: if the checkpoint is not one complete single-label classifier, or the engine or the
                precision is not available.
        """
        path = resolve_checkpoint(path_or_repo)
        config, loaded = read_config(path), load_engine(path, engine=engine, precision=precision)
        length = resolve_max_length(config, max_length, path, loaded.max_length)
        return cls(
            name=Path(str(path_or_repo)).name,
            path=path,
            label_names=config_label_names(config, path),
            layers=config_int(config, "num_hidden_layers", path),
            hidden=config_int(config, "hidden_size", path),
            tokenizer=StageTokenizer(path, max_length=length),
            engine=loaded,
        )

    @property
    def num_labels(self) -> int:
        """Number of labels."""
        return len(self.label_names)

    def encode(self, texts: Texts) -> TokenizedTexts:
        """Tokens of each text or pair; raises DataError if one is not a text."""
        return self.tokenizer.encode(texts)

    def logits(self, tokens: TokenizedTexts, indices: Ints | None = None) -> Logits:
        """Logits of tokenized texts.

        Batches hold texts of one padded length, and as many run at the same time as the engine has streams.

        Args:
            tokens: tokens from `encode`.
            indices: (m,) which of the texts; default all.

        Returns:
            (m, num_labels) in the order of `indices`.
        """
        selected = np.arange(len(tokens)) if indices is None else indices
        lengths = tokens.padded_lengths[selected]
        logits = np.empty((len(selected), self.num_labels), dtype=np.float32)

        def run(batch: Ints) -> None:
            logits[batch] = self.run(tokens.batch(selected[batch]))

        streams = self.engine.streams
        budget = min(self.batch_tokens, max(1, int(lengths.sum()) // streams))
        run_in_parallel(run, list(length_batches(lengths, tokens=budget)), streams)
        return logits

    def run(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) logits of one padded batch."""
        logits = self.engine.logits(batch)
        return logits if self.columns is None else logits[:, list(self.columns)]

    def predict(self, texts: Texts) -> Predictions:
        """Predictions of this stage alone, for n texts or pairs of texts."""
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
            StageError: if the labels are not the same; the message shows both lists.
        """
        own = config_label_names(read_config(self.path), self.path)
        if sorted(own) != sorted(names):
            raise StageError(
                f"the labels of {self.name} are not the expected ones. Its config.json: {', '.join(own)}. "
                f"Expected: {', '.join(names)}."
            )
        return replace(self, label_names=tuple(names), columns=tuple(own.index(name) for name in names))


def run_in_parallel(run: Callable[[Ints], object], batches: Sequence[Ints], streams: int) -> None:
    """Run each batch, `streams` of them at the same time."""
    with ThreadPoolExecutor(streams) as threads:
        run_all = threads.map if streams > 1 and len(batches) > 1 else map
        for _ in run_all(run, batches):  # exhausted so that an exception of a thread is raised here
            pass
