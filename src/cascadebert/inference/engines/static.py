"""The static engine: a stage that is no transformer. Each token adds its scores; NumPy only."""

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
    """A weighted mean of token embeddings and a linear head.

    Both are linear, so the head is applied to the whole token table once: a row's logits are the weighted
    mean of its tokens' scores, and its neighbours have no part in them.
    """

    name = "static"
    precision = "float32"
    device = "cpu"
    streams = 1

    def __init__(self, path: Path) -> None:
        try:
            weights = load_file(path / "model.safetensors")
            table, head = weights["embeddings.weight"], weights["classifier.weight"]
            amounts, self._bias = weights["amounts.weight"], weights["classifier.bias"]
            amounts = np.exp(amounts - amounts.max())
            self._table = np.concatenate([amounts * (table @ head.T), amounts], axis=1)
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise StageError(f"{path}: not the weights of a static stage ({error})") from error

    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels), in float32."""
        found = np.take(self._table, batch.input_ids, axis=0)
        found *= batch.attention_mask[:, :, None].astype(np.float32)
        total = found.sum(axis=1)
        return np.asarray(total[:, :-1] / total[:, -1:] + self._bias, dtype=np.float32)
