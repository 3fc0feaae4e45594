"""Finds checkpoints and reads their config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from cascadebert.errors import StageError

CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.onnx", "*.txt", "*.model", "*.npz", "*.md", "stage-*/*"]
PICKLED_WEIGHTS = ["pytorch_model*.bin"]
ALIASES = {
    "num_hidden_layers": ("n_layers", "num_layers", "n_layer", "encoder_layers"),
    "hidden_size": ("dim", "d_model", "n_embd", "emb_dim"),
    "max_position_embeddings": ("n_positions",),
}  # names of the same sizes in other model families


def resolve_checkpoint(path_or_repo: str | Path) -> Path:
    """The folder itself, or the downloaded files of a repository of the Hugging Face Hub.

    Raises StageError if there is neither.
    """
    path = Path(path_or_repo)
    if path.is_dir():
        return path
    try:
        folder = Path(snapshot_download(str(path_or_repo), allow_patterns=CHECKPOINT_FILES))
        if not any(folder.rglob("*.safetensors")):  # older encoders; opened for their tensors only
            snapshot_download(str(path_or_repo), allow_patterns=PICKLED_WEIGHTS)
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StageError(
            f"{path_or_repo}: neither a folder nor a repository that can be downloaded ({reason})"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises StageError if it is absent or not JSON."""
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(f"{path}: no readable config.json ({error})") from error
    return config


def config_label_names(config: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Label names of a classifier, in the order of its logits; the unnamed `LABEL_3` is "3".

    Raises StageError unless it is a single-label classifier of two labels or more.
    """
    labels = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers omits these two
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    if config.get("problem_type") in ("multi_label_classification", "regression"):
        raise StageError(f"{path}: a {config['problem_type']} model; expected a single-label classifier")
    if len(names) < 2 or len(set(names)) < len(names):
        raise StageError(f"{path}: expected two or more distinct labels in id2label, found {list(names)}")
    numbers = tuple(str(i) for i in range(len(names)))
    return numbers if names == tuple(f"LABEL_{number}" for number in numbers) else names


def config_int(config: dict[str, Any], name: str, path: Path, default: int | None = None) -> int:
    """A size from a configuration, under its usual name or that of another family.

    Raises StageError if it is absent and there is no default.
    """
    if name == "num_hidden_layers" and isinstance(config.get("block_sizes"), list):
        return sum(map(int, config["block_sizes"]))  # of Funnel
    for key in (name, *ALIASES.get(name, ())):
        if key in config:
            return int(config[key])
    if default is None:
        raise StageError(f"{path}: config.json does not say {name}")
    return default
