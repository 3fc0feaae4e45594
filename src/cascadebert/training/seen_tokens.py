"""Only the tokens that occur are trained: the others would cost most of a short step and learn nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cascadebert.batching import Rows
from cascadebert.errors import extra

with extra("train"):
    import torch
    from torch import nn

TABLE = "word_embeddings"
HIGHEST_PAD = 1000


@contextlib.contextmanager
def only_seen_tokens(module: nn.Module, rows: Rows) -> Iterator[Rows]:
    """Train with a token table of the tokens in the rows; at the end what it learned is in the whole one.

    A token that does not occur has a gradient of 0, and AdamW without weight decay leaves it alone. Weights
    come out as with the whole table, but for the order of the sums in the norm of the gradients.

    Args:
        module: a model with one table named `word_embeddings`; any other is left as it is.
        rows: all that it is trained on.

    Yields:
        The rows in the table's own numbers; those up to the padding token's keep theirs.
    """
    found = [name for name, part in module.named_modules() if name.rpartition(".")[2] == TABLE]
    whole = module.get_submodule(found[0]) if len(found) == 1 else None
    if not isinstance(whole, nn.Embedding) or not whole.weight.requires_grad or rows.pad_id > HIGHEST_PAD:
        yield rows
        return
    seen = np.union1d(np.arange(rows.pad_id + 1), rows.ids)
    where = torch.from_numpy(seen).to(whole.weight.device)
    part = nn.Embedding.from_pretrained(
        whole.weight.detach()[where], freeze=False, padding_idx=whole.padding_idx
    )
    module.set_submodule(found[0], part)
    yield replace(rows, ids=np.searchsorted(seen, rows.ids).astype(np.int32))
    module.set_submodule(found[0], whole)
    with torch.no_grad():
        whole.weight[where] = part.weight.to(whole.weight.device)
