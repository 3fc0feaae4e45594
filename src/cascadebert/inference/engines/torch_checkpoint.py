"""Opening a checkpoint in torch and refusing one that is not complete.

The method's own release passed the large model's configuration to every stage, so a 2-layer checkpoint
silently became 12 layers of which ten were random. Here missing or unexpected encoder weights are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cascadebert.errors import StageError, extra

with extra("train"):
    import torch
    from transformers import AutoModelForSequenceClassification, PreTrainedModel
    from transformers.utils import logging as transformers_logging

BUFFERS = ("position_ids", "token_type_ids", "inv_freq")
POOLER = "pooler"


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep `transformers` from printing load reports and bars: what matters is raised as an error."""
    before = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()


def load_classifier(path: Path, **config: Any) -> PreTrainedModel:
    """A whole classifier in float32 from a checkpoint folder.

    Args:
        path: the folder.
        config: replaces entries of its configuration. Given labels mean a new head may be made
            (for training); without them the head must be in the checkpoint.

    Raises:
        StageError: if the folder does not open, encoder weights are missing or unexpected, the depth is
            not the configuration's, or (without `config`) the head is missing.
    """
    try:
        with quiet_transformers():
            loaded, info = AutoModelForSequenceClassification.from_pretrained(
                path,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=bool(config),
                **config,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise StageError(f"{path}: not a classifier that transformers can open ({error})") from error
    model: PreTrainedModel = loaded
    _refuse_incomplete(path, model, info, head_may_be_new=bool(config))
    _refuse_depth(path, model)
    return model


def layer_lists(model: torch.nn.Module) -> dict[str, torch.nn.ModuleList]:
    """The lists of layers of a model, by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)}


def _refuse_incomplete(
    path: Path, model: PreTrainedModel, info: dict[str, Any], head_may_be_new: bool
) -> None:
    missing = sorted(info["missing_keys"])
    mismatched = sorted(str(key[0]) for key in info["mismatched_keys"])
    lost = [key for key in missing + mismatched if not (head_may_be_new and _is_head(model, key))]
    extra_weights = [key for key in sorted(info["unexpected_keys"]) if _is_encoder(model, key)]
    for what, keys in (("missing", lost), ("unexpected", extra_weights)):
        if keys:
            raise StageError(
                f"{path}: {len(keys)} weights are {what}, such as {keys[0]}. A stage must be complete: its "
                "weights and its own config.json belong together."
            )


def _is_head(model: PreTrainedModel, key: str) -> bool:
    inner = key.removeprefix(f"{model.base_model_prefix}.")
    return inner == key or inner.startswith(POOLER)


def _is_encoder(model: PreTrainedModel, key: str) -> bool:
    inner = key.removeprefix(f"{model.base_model_prefix}.")
    top = inner.split(".")[0]
    parts = {name for name, _ in model.base_model.named_children()} - {POOLER}
    return top in parts and not inner.endswith(BUFFERS)


def _refuse_depth(path: Path, model: PreTrainedModel) -> None:
    if hasattr(model.config, "num_hidden_groups"):
        return  # ALBERT runs the same layers several times
    depth = max((len(layers) for layers in layer_lists(model.base_model).values()), default=0)
    if depth != model.config.num_hidden_layers:
        raise StageError(
            f"{path}: config.json says {model.config.num_hidden_layers} layers, the model has {depth}"
        )
