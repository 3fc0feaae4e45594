"""Opens a checkpoint in torch; rejects one whose encoder weights are missing, unexpected or of another depth.

The method's own release passed the large model's configuration to every stage, so a 2-layer checkpoint
silently became 12 layers, ten of them random.
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
    """Suppress the load reports and progress bars of `transformers`; its errors still propagate."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_classifier(path: Path, **config: Any) -> PreTrainedModel:
    """Load a complete classifier in float32.

    `config` replaces entries of the checkpoint's configuration. With it a new head may be created (for
    training); without it the head must be in the checkpoint. Raises StageError if the folder does not open,
    weights are missing or unexpected, or the depth differs from the configuration's.
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
    _check_complete(path, model, info, new_head=bool(config))
    _check_depth(path, model)
    return model


def layer_lists(model: torch.nn.Module) -> dict[str, torch.nn.ModuleList]:
    """The `ModuleList`s of a model, by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)}


def _check_complete(path: Path, model: PreTrainedModel, info: dict[str, Any], *, new_head: bool) -> None:
    prefix = f"{model.base_model_prefix}."
    encoder = {name for name, _ in model.base_model.named_children()} - {POOLER}

    def in_head(key: str) -> bool:
        return not key.startswith(prefix) or key.removeprefix(prefix).startswith(POOLER)

    def in_encoder(key: str) -> bool:
        name = key.removeprefix(prefix)
        return name.split(".")[0] in encoder and not name.endswith(BUFFERS)

    absent = [*sorted(info["missing_keys"]), *sorted(str(key[0]) for key in info["mismatched_keys"])]
    missing = [key for key in absent if not (new_head and in_head(key))]
    unexpected = [key for key in sorted(info["unexpected_keys"]) if in_encoder(key)]
    for problem, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            raise StageError(
                f"{path}: {len(keys)} weights are {problem}, such as {keys[0]}. A stage must be complete: "
                "its weights and its own config.json belong together."
            )


def _check_depth(path: Path, model: PreTrainedModel) -> None:
    if hasattr(model.config, "num_hidden_groups"):
        return  # ALBERT runs the same layers several times
    depth = max((len(layers) for layers in layer_lists(model.base_model).values()), default=0)
    if depth != model.config.num_hidden_layers:
        raise StageError(
            f"{path}: config.json says {model.config.num_hidden_layers} layers, the model has {depth}"
        )
