"""One complete classifier: its own tokenizer, its own configuration and an engine that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cascadebert.data.cells import as_texts
from cascadebert.data.labels import same_labels, shorten, without_prefix
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
from cascadebert.types import Flops, Ints, Logits, PaddingSide, Predictions, TextInput

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
        padding_side: PaddingSide = "right",
    ) -> Stage:
        """Open a fine-tuned classifier from a folder or the Hugging Face Hub.

        Its tokenizer.json is used as it is; `fit` and `assemble` compare all with transformers.

        Args:
            path_or_repo: a folder with config.json, model.safetensors and tokenizer.json, or a repository.
            engine: "openvino", "onnxruntime", "torch" or "auto" (see `load_engine`).
            precision: "float32", "bfloat16", "int8" or "auto" for the engine's own choice.
            max_length: longest text in tokens; default 128, or less where the model reads less.
            padding_side: "right", "left", or "none" for a model that reads padding: its batches hold texts of
                one exact length. `fit` and `assemble` find out which.

        Raises:
            StageError: if the checkpoint is not one complete single-label classifier, or the engine or the
                precision is not available.
        """
        path = resolve_checkpoint(path_or_repo)
        config = read_config(path)
        label_names = config_label_names(config, path)
        layers, hidden = (config_int(config, name, path) for name in ("num_hidden_layers", "hidden_size"))
        resolve_max_length(config, None, path)  # reports what config.json gets wrong before a model is built
        loaded = load_engine(path, engine=engine, precision=precision)
        length = resolve_max_length(config, max_length, path, loaded.max_length)
        tokenizer = StageTokenizer(path, max_length=length, padding_side=padding_side)
        return cls(Path(str(path_or_repo)).name, path, label_names, layers, hidden, tokenizer, loaded)

    @property
    def num_labels(self) -> int:
        """Number of labels."""
        return len(self.label_names)

    def encode(self, texts: TextInput) -> TokenizedTexts:
        """Tokens of each text or pair; raises DataError if one is not a text."""
        return self.tokenizer.encode(as_texts(texts))

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
        if logits.shape[1:] != (self.num_labels,):
            raise StageError(
                f"{self.path}: the model gives {logits.shape[-1]} logits, but its config.json names "
                f"{self.num_labels} labels ({shorten(self.label_names)}). Name as many in id2label."
            )
        return logits if self.columns is None else logits[:, list(self.columns)]

    def predict(self, texts: TextInput) -> Predictions:
        """Predictions of this stage alone, for n texts or pairs of texts as in `Cascade.predict`."""
        tokens = self.encode(texts)
        probabilities = softmax(self.logits(tokens))
        return Predictions(
            label_ids=probabilities.argmax(axis=1),
            probabilities=probabilities,
            confidences=max_probability(probabilities),
            stages=np.ones(len(tokens), dtype=np.int64),
            truncated=tokens.truncated,
            label_names=self.label_names,
        )

    def with_labels(self, names: Sequence[str]) -> Stage:
        """This stage with the columns of its logits in the order of `names`, matched by name.

        Raises:
            StageError: if the labels are not the same; the message shows both lists.
        """
        own = config_label_names(read_config(self.path), self.path)
        if not same_labels(own, names):
            raise StageError(
                f"the labels of {self.name} are not the expected ones. Its config.json: {shorten(own)}. "
                f"Expected: {shorten(names)}."
            )
        plain = without_prefix(own)
        columns = tuple(plain.index(name) for name in without_prefix(names))
        return replace(self, label_names=tuple(names), columns=columns)


def truncation_notices(
    stages: Sequence[Stage], truncated: int, n: int, reader: str = "the stage that answered"
) -> tuple[str, ...]:
    """A notice if `reader`, one of the stages, read a part only of some of n texts; how to read more."""
    if not truncated:
        return ()
    lengths = sorted({stage.tokenizer.max_length for stage in stages})
    limits = [stage.tokenizer.limit for stage in stages if stage.tokenizer.limit is not None]
    remedy = "These stages cannot be given a larger --max-length."
    if not limits or min(limits) > lengths[-1]:
        most = f"up to {min(limits)}" if limits else "of more"
        remedy = f"To read more, run fit or assemble with --max-length {most}."
    share = f"{truncated:,} of {n:,} texts ({100 * truncated / n:.1f} %)"
    read = " or ".join(map(str, lengths))
    return (f"{share} have more tokens than {reader} reads ({read}), and were cut. {remedy}",)


def run_in_parallel(run: Callable[[Ints], object], batches: Sequence[Ints], streams: int) -> None:
    """Run each batch, `streams` of them at the same time."""
    with ThreadPoolExecutor(streams) as threads:
        run_all = threads.map if streams > 1 and len(batches) > 1 else map
        for _ in run_all(run, batches):  # exhausted so that an exception of a thread is raised here
            pass
