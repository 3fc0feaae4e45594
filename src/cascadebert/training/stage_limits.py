"""Limits that a stage states in its config.json: the longest input, and the token that pads.

A stage's folder is read without torch, so both are asked of the model itself when it becomes a stage.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

from cascadebert.errors import extra
from cascadebert.inference.engines.load import stage_kind
from cascadebert.inference.engines.torch import (
    load_classifier,
    max_positions,
    plain_token,
    quiet_transformers,
    token_table,
)
from cascadebert.inference.tokenizer import LIMIT_KEY
from cascadebert.persistence.checkpoint_config import read_config

with extra("train"):
    import torch
    from transformers import PreTrainedModel


def write_limits(folder: Path) -> None:
    """Add to the config.json of a copied classifier what `set_limits` finds.

    Weights are written again only if the token table has to grow. Raises StageError if the classifier is not
    complete.
    """
    if stage_kind(folder).own_engine is not None:
        return
    config, model = read_config(folder), load_classifier(folder)
    size = len(token_table(model))
    set_limits(model, folder)
    found = {LIMIT_KEY: getattr(model.config, LIMIT_KEY, None)}
    found["pad_token_id"] = model.config.get_text_config().pad_token_id
    if (rows := len(token_table(model))) > size:
        found["vocab_size"] = rows
        for file in folder.glob("model*.safetensors*"):
            file.unlink()
        with quiet_transformers():
            model.save_pretrained(folder)
    known = {name: value for name, value in found.items() if value is not None}
    (folder / "config.json").write_text(json.dumps({**config, **known}, indent=2) + "\n", "utf-8")


def set_limits(model: PreTrainedModel, tokenizer: Path) -> None:
    """Set the longest input and, where it is needed, a padding token in a model's configuration.

    A decoder reads its answer at the last token that is not padding, and without a padding token at the very
    last one. Any token of the tokenizer, the end token too, may end a text, and would then be skipped; so
    padding is a row of the token table that no text uses, if need be a new one.
    """
    longest = max_positions(model)
    if longest is not None:
        setattr(model.config, LIMIT_KEY, longest)
    config = model.config.get_text_config()
    if not _lacks_padding(model):
        return
    tokens = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab(with_added_tokens=True)
    rows = len(token_table(model))
    if max(tokens.values(), default=0) + 1 >= rows:
        rows += 1
        with torch.random.fork_rng():
            model.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():
            token_table(model)[-1] = 0.0
    config.pad_token_id = rows - 1


@torch.inference_mode()
def _lacks_padding(model: PreTrainedModel) -> bool:
    """True if the model's padding token is not in its table, or it has none and reads one row at a time."""
    padding = model.config.get_text_config().pad_token_id
    if padding is not None:
        return not 0 <= padding < len(token_table(model))
    ids = torch.full((2, 4), plain_token(model), device=model.device)
    try:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except ValueError:  # "Cannot handle batch sizes > 1 if no padding token is defined"
        return True
    return False
