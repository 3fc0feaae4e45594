"""What an engine is: token batch in, logits out, NumPy at the border."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cascadebert.errors import StageError
from cascadebert.types import Ints, Logits

ENGINES = ("torch",)


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
    """

    name: str
    precision: str

    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) in the order of the checkpoint's own labels."""
        ...


def load_engine(path: Path, *, engine: str, precision: str) -> Engine:
    """Load the model in a checkpoint folder.

    Args:
        path: a folder that plain `transformers` opens.
        engine: "torch", or "auto" for the best one installed.
        precision: "float32", "bfloat16", or "auto" for the engine's own choice.

    Raises:
        StageError: if the engine is unknown.
        MissingExtra: if its library is not installed.
    """
    if engine not in ("auto", *ENGINES):
        raise StageError(f"unknown engine {engine!r}; expected auto or {', '.join(ENGINES)}")
    from cascadebert.engines.torch import TorchEngine

    return TorchEngine(path, precision=precision)
