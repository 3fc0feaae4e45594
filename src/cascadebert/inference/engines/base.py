"""The engine protocol: token batches in, logits out, NumPy arrays at the border."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cascadebert.errors import StageError, reason
from cascadebert.types import Ints, Logits

ENGINE_FILE = "model.onnx"


@dataclass(frozen=True)
class TokenBatch:
    """Tokenized texts, padded to one length."""

    input_ids: Ints  # (rows, length)
    attention_mask: Ints  # (rows, length) 1 for a token, 0 for padding
    token_type_ids: Ints  # (rows, length) 1 in the second text of a pair


class Engine(Protocol):
    """A loaded model."""

    name: str
    precision: str  # of its matrix products, such as "float32"
    device: str  # "cpu" or "cuda"
    max_length: int | None  # most tokens that the model reads, if it says so
    streams: int  # batches that are best run at the same time, each in a thread of its own

    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) in float32, in the order of the checkpoint's own labels."""
        ...


@contextmanager
def engine_file(path: Path, errors: tuple[type[Exception], ...]) -> Iterator[Path]:
    """The model file that engines without torch run.

    Raises StageError if it is absent, or the block that loads it raises one of the `errors`.
    """
    file = path / ENGINE_FILE
    if not file.is_file():
        raise StageError(
            f"{path}: no {ENGINE_FILE}, which engines without torch run. Make a cascade of its stages with "
            "`cascadebert assemble --engine openvino` (or onnxruntime), or run it with --engine torch."
        )
    try:
        yield file
    except errors as error:
        raise StageError(
            f"{path}: {ENGINE_FILE} cannot be run ({reason(error)}). Use --engine torch."
        ) from error


def check_precision(engine: str, precision: str, supported: Collection[str], *, auto: str) -> str:
    """The precision requested, or `auto` for "auto". Raises StageError if the engine does not support it."""
    if precision not in ("auto", *supported):
        known = ", ".join(supported)
        raise StageError(f"the {engine} engine has no precision {precision!r}; expected auto, {known}")
    return auto if precision == "auto" else precision
