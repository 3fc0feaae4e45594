"""The classifier's logits and last hidden states of texts, made once and kept for all small models."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadebert.atomic import write_text_atomically
from cascadebert.errors import CascadeError, StageError, extra
from cascadebert.inference.batching import TokenizedTexts, length_batches
from cascadebert.inference.engines.base import TokenBatch
from cascadebert.inference.engines.torch import (
    PRECISIONS,
    has_cuda,
    load_classifier,
    model_inputs,
    takes_token_types,
)
from cascadebert.inference.stage import Stage
from cascadebert.inference.tokenizer import gives_token_types
from cascadebert.progress import progress_bar
from cascadebert.training.checkpoints import checkpoint_fingerprint, fingerprint
from cascadebert.training.trainer import runs_in_bf16, use_bf16
from cascadebert.types import Logits, Texts

with extra("train"):
    import torch
    from torch import Tensor

CHUNK, CHUNKS_FILE = 1024, "chunks.json"  # texts between two saves; what is whole
HALF_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class TeacherOutputs:
    """The classifier's logits of n texts, and its last hidden states of the first of them, on disk."""

    logits: Logits  # (n, num_labels) memory-mapped, read-only; columns in the order of the stage's labels
    tokens: TokenizedTexts  # of the first m texts; m may be 0
    states: NDArray[np.float16]  # (tokens of these m texts, width) last hidden states, memory-mapped


def run_teacher(stage: Stage, texts: Texts, *, hidden_tokens: int, folder: Path) -> TeacherOutputs:
    """Run the classifier on texts or pairs, store its outputs in `folder`, and reuse those stored there.

    The first texts, until `hidden_tokens` tokens are reached, run in torch, in bfloat16 where the hardware
    supports it, and their last hidden states are stored; all others run on the stage's own engine. What is
    stored stays as it is: a killed run resumes after its last whole chunk, and a later call with more texts
    behind the same ones runs the new ones only. More hidden states are added only while every stored text
    has them.

    Raises:
        CascadeError: If the folder holds the outputs of another classifier, or of texts that `texts` do not
            begin with.
        StageError: If hidden states are asked for, and the model is not one of torch with one per token.
    """
    files = _OutputFiles(stage, folder)
    files.check(texts)
    files.cut_partial_chunk()
    model: _HiddenStateEngine | None = None
    with progress_bar("running the classifier", len(texts), "texts") as show:
        while files.texts < len(texts):
            show(files.texts)
            chunk = texts[files.texts : files.texts + CHUNK]
            tokens = stage.tokenizer.encode(chunk, range(files.texts, files.texts + len(chunk)))
            count = files.texts_with_states(tokens, hidden_tokens)
            if count:
                model = model or _HiddenStateEngine(stage.path)
                files.add_with_states(chunk[:count], tokens, model)
            else:
                files.add(chunk, stage.logits(tokens))
        show(files.texts)
    return files.open()


def count_stored(folder: Path) -> int:
    """Number of texts whose outputs `run_teacher` stored in a folder, also if it was interrupted."""
    return sum(chunk.texts for chunk in _read_chunks(folder))


class _HiddenStateEngine:
    """The classifier in torch; keeps the last hidden states of the batch that it ran last."""

    name = "torch"
    streams = 1
    max_length: int | None = None

    def __init__(self, path: Path) -> None:
        self.device = "cuda" if has_cuda() else "cpu"
        model = load_classifier(path).eval()
        runs = use_bf16(None) and runs_in_bf16(model)
        self.precision = "bfloat16" if runs else "float32"
        model.base_model.register_forward_hook(self._keep)
        self._model = model.to(self.device, PRECISIONS[self.precision])
        self._token_types = takes_token_types(model, given=gives_token_types(path))
        self._states: Tensor

    def _keep(self, module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
        self._states = outputs[0]

    @torch.inference_mode()
    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) in float32."""
        inputs = model_inputs(batch, self._token_types)
        outputs = self._model(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
        return np.asarray(outputs.logits.float().cpu().numpy())

    def states(self, batch: TokenBatch, width: int) -> list[NDArray[np.float16]]:
        """The (tokens, width) last hidden states of each row of the batch that ran last."""
        if self._states.shape != (*batch.input_ids.shape, width):
            raise StageError(
                f"the model has hidden states of shape {tuple(self._states.shape)} for token ids of "
                f"shape {batch.input_ids.shape}; expected one of width {width} per token. "
                "No student can learn these."
            )
        states = self._states.float().clamp(-HALF_MAX, HALF_MAX).half().cpu().numpy()
        return [row[mask] for row, mask in zip(states, batch.attention_mask.astype(np.bool_), strict=True)]


@dataclass(frozen=True)
class _TextChunk:
    """One step of the run."""

    texts: int
    tokens: int  # of texts with hidden states; 0 if these have none
    key: str  # fingerprint of the classifier and of all texts up to the end of the chunk


def _read_chunks(folder: Path) -> list[_TextChunk]:
    with suppress(FileNotFoundError):
        return [_TextChunk(*values) for values in json.loads((folder / CHUNKS_FILE).read_text("utf-8"))]
    return []


class _OutputFiles:
    """Files that whole chunks are appended to; `chunks.json`, written last, says which are whole."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage, self._folder = stage, folder
        self._key = fingerprint(
            checkpoint_fingerprint(stage.path), stage.tokenizer.key, stage.label_names, stage.columns
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._chunks = _read_chunks(folder)

    @property
    def texts(self) -> int:
        """Number of texts that are stored."""
        return sum(chunk.texts for chunk in self._chunks)

    @property
    def _tokens(self) -> int:
        return sum(chunk.tokens for chunk in self._chunks)

    def check(self, texts: Texts) -> None:
        """Raise CascadeError unless the texts begin with those that are stored, of the same classifier."""
        start, key = 0, self._key
        for chunk in self._chunks:
            key = fingerprint(key, list(texts[start : start + chunk.texts]))
            if key != chunk.key:
                raise CascadeError(
                    f"{self._folder} holds the outputs of another classifier or of other texts: the "
                    f"{len(texts):,} given do not begin with the {self.texts:,} that were run. Give these "
                    "first, or remove the folder to run all again."
                )
            start += chunk.texts

    def cut_partial_chunk(self) -> None:
        """Cut off what lies behind the last whole chunk."""
        while self._chunks and any(self._size(name) < size for name, size in self._sizes().items()):
            self._chunks.pop()  # a crash of the machine loses what was not yet written to the disk
        for name, size in self._sizes().items():
            with self._file(name).open("ab") as file:
                file.truncate(size)

    def texts_with_states(self, tokens: TokenizedTexts, hidden_tokens: int) -> int:
        """Number of the next texts that get hidden states."""
        left = hidden_tokens - self._tokens
        if left <= 0 or any(not chunk.tokens for chunk in self._chunks):
            return 0
        return min(len(tokens), int(np.searchsorted(tokens.starts[1:], left)) + 1)

    def add(self, texts: Texts, logits: Logits, tokens: int = 0) -> None:
        """Append a chunk, which makes it whole; its `tokens`, if any, are stored already."""
        with self._file("logits").open("ab") as file:
            file.write(logits.tobytes())
        key = fingerprint(self._chunks[-1].key if self._chunks else self._key, list(texts))
        self._chunks.append(_TextChunk(len(texts), tokens, key))
        stored = [(chunk.texts, chunk.tokens, chunk.key) for chunk in self._chunks]
        write_text_atomically(self._file(CHUNKS_FILE), json.dumps(stored))

    def add_with_states(self, texts: Texts, tokens: TokenizedTexts, model: _HiddenStateEngine) -> None:
        """Run the texts, whose `tokens` come first, and append them with their hidden states."""
        stage, count, width = replace(self._stage, engine=model), len(texts), self._stage.hidden
        total = int(tokens.starts[count])
        logits = np.empty((count, stage.num_labels), dtype=np.float32)
        with self._file("states").open("r+b") as file:
            for positions in length_batches(tokens.padded_lengths[:count], tokens=stage.batch_tokens):
                batch = tokens.batch(positions)
                logits[positions] = stage.run(batch)
                for i, states in zip(positions, model.states(batch, width), strict=True):
                    file.seek((self._tokens + int(tokens.starts[i])) * width * states.itemsize)
                    file.write(states.tobytes())
        parts: dict[str, NDArray[Any]] = {
            "ids": tokens.ids[:total],
            "types": tokens.type_ids[:total],
            "lengths": tokens.lengths[:count],
        }
        for name, part in parts.items():
            with self._file(name).open("ab") as file:
                file.write(part.tobytes())
        self.add(texts, logits, total)

    def open(self) -> TeacherOutputs:
        """All that is stored, memory-mapped."""
        maps = {
            name: np.memmap(self._file(name), dtype, "r", shape=shape) if shape[0] else np.empty(shape, dtype)
            for name, (dtype, shape) in self._arrays().items()
        }
        starts = np.concatenate([[0], np.cumsum(maps["lengths"], dtype=np.int64)])
        tokens = TokenizedTexts(maps["ids"], maps["types"], starts, self._stage.tokenizer.padding)
        return TeacherOutputs(maps["logits"], tokens, maps["states"])

    def _arrays(self) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
        """Type and shape of each file's array."""
        with_states = sum(chunk.texts for chunk in self._chunks if chunk.tokens)
        return {
            "logits": (np.float32, (self.texts, self._stage.num_labels)),
            "lengths": (np.int64, (with_states,)),
            "ids": (np.int32, (self._tokens,)),
            "types": (np.int8, (self._tokens,)),
            "states": (np.float16, (self._tokens, self._stage.hidden)),
        }

    def _sizes(self) -> dict[str, int]:
        return {
            name: np.dtype(dtype).itemsize * int(np.prod(shape))
            for name, (dtype, shape) in self._arrays().items()
        }

    def _size(self, name: str) -> int:
        return self._file(name).stat().st_size if self._file(name).is_file() else 0

    def _file(self, name: str) -> Path:
        return self._folder / name
