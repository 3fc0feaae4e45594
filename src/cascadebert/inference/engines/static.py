"""The static engine: a classifier without layers, in NumPy. Each token adds its own scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cascadebert.errors import StageError
from cascadebert.inference.engines.base import TokenBatch
from cascadebert.types import Logits

MODEL_TYPE = "static"


class StaticEngine:
    """A weighted mean of token embeddings, followed by a linear head.

    Both are linear, so the head is applied once to the whole embedding table: the logits of a text are the
    weighted mean of its tokens' scores, and do not depend on the other texts of a batch.
    """

    name = "static"
    precision = "float32"
    device = "cpu"
    max_length: int | None = None
    streams = 1

    def __init__(self, path: Path) -> None:
        try:
            tensors = load_file(path / "model.safetensors")
            embeddings, head = tensors["embeddings.weight"], tensors["classifier.weight"]
            amounts, self._bias = tensors["amounts.weight"], tensors["classifier.bias"]
            amounts = np.exp(amounts - amounts.max())
            self._table = np.concatenate([amounts * (embeddings @ head.T), amounts], axis=1)
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise StageError(f"{path}: not the weights of a static stage ({error})") from error

    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) in float32."""
        scores = np.take(self._table, batch.input_ids, axis=0)
        scores *= batch.attention_mask[:, :, None].astype(np.float32)
        total = scores.sum(axis=1)
        return np.asarray(total[:, :-1] / total[:, -1:] + self._bias, dtype=np.float32)
