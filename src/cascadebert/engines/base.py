"""What an engine is: token batch in, logits out, NumPy at the border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cascadebert.types import Ints, Logits


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
