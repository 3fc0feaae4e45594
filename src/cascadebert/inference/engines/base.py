"""What an engine is: token batch in, logits out, NumPy at the border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from cascadebert.errors import StageError
from cascadebert.timing import interleaved
from cascadebert.types import Ints, Logits

ENGINE_FILE = "model.onnx"
CEILING_SIZE, CEILING_REPEATS = 2048, 5


@dataclass(frozen=True)
class TokenBatch:
    """Rows of one padded length.

    Attributes:
        input_ids: (rows, length) token numbers.
        attention_mask: (rows, length) 1 for a token, 0 for padding.
        token_type_ids: (rows, length) 1 in the second text of a pair.
    """

    input_ids: Ints
    attention_mask: Ints
    token_type_ids: Ints


class Engine(Protocol):
    """One loaded model.

    Attributes:
        name: the engine, such as "torch".
        precision: of its matrix products, such as "float32".
        device: "cpu" or "cuda".
        streams: batches that are best run at the same time, each in a thread of its own.
    """

    name: str
    precision: str
    device: str
    streams: int

    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) in the order of the checkpoint's own labels."""
        ...


def engine_file(path: Path) -> Path:
    """The file of a stage that engines without torch run.

    Raises:
        StageError: if it is not there.
    """
    file = path / ENGINE_FILE
    if not file.is_file():
        raise StageError(
            f"{path}: no {ENGINE_FILE}, which engines without torch run. Make a cascade of its stages with "
            "`cascadebert assemble --engine openvino` (or onnxruntime), or run it with --engine torch."
        )
    return file


def model_feed(batch: TokenBatch, names: Sequence[str]) -> dict[str, Ints]:
    """A token batch under the names of a model's inputs."""
    return {name: getattr(batch, name) for name in names}


def blas_ceiling(precision: str) -> float:
    """Operations per second of NumPy's own large float32 matrix products, the best of some."""
    one = np.ones((CEILING_SIZE, CEILING_SIZE), dtype=np.float32)
    (seconds,) = interleaved([lambda: one @ one], repeats=CEILING_REPEATS)
    return float(2 * CEILING_SIZE**3 / min(seconds))
