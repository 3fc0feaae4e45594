"""Finds checkpoints and reads their config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from cascadebert.data.labels import UNNAMED, shorten
from cascadebert.errors import StageError

CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.onnx", "*.txt", "*.model", "*.npz", "*.md", "stage-*/*"]
PICKLED_WEIGHTS = ["pytorch_model*.bin"]
ALIASES = {
    "num_hidden_layers": ("n_layers", "num_layers", "n_layer", "encoder_layers"),
    "hidden_size": ("dim", "d_model", "n_embd", "emb_dim"),
    "max_position_embeddings": ("n_positions",),
}  # names of the same sizes in other model families
LABEL_COUNTS = {"bart": 3}  # where neither id2label nor num_labels is given; 2 in other families
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
VOCABULARIES = ("tokenizer.json", "vocab.json")
LARGE_FILES = (".safetensors", ".bin", ".onnx", ".json", ".model", ".txt")
OTHER_FOLDERS = {
    "cascade.json": "a saved cascade, not one classifier. Give one of its stages, such as {path}/stage-1.",
    "adapter_config.json": "an adapter without its model. Merge it into the model with peft's "
    "`merge_and_unload` and save that with `save_pretrained`.",
}


def resolve_checkpoint(path_or_repo: str | Path) -> Path:
    """The folder itself, or the downloaded files of a repository of the Hugging Face Hub.

    Raises StageError if there is neither, or a file was not downloaded completely.
    """
    path = Path(path_or_repo)
    if path.is_dir():
        check_downloaded(path)
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


def check_downloaded(path: Path) -> None:
    """Raise StageError if a file of a folder is a Git LFS pointer, or weights or vocabulary are cut off."""
    for file in sorted(path.iterdir()):
        if file.suffix not in LARGE_FILES or not file.is_file():
            continue
        with file.open("rb") as content:
            if content.read(len(LFS_POINTER)) == LFS_POINTER:
                raise StageError(
                    f"{file} is a Git LFS pointer, not the file itself. Run `git lfs pull` in {path}."
                )
        _check_complete(file)


def _check_complete(file: Path) -> None:
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="numpy"):  # reads the header and compares the size
                pass
        elif file.name in VOCABULARIES:
            json.loads(file.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise StageError(
            f"{file} is damaged, or was not downloaded completely ({error}). Download it again."
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The checkpoint's config.json.

    Raises StageError if it is absent or no JSON object, or the checkpoint is quantized.
    """
    file = path / "config.json"
    if not file.is_file():
        raise StageError(f"{path}: {_describe(path)}")
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(f"{path}: no readable config.json ({error}). Save it as plain UTF-8.") from error
    if not isinstance(config, dict):
        raise StageError(f"{path}: config.json is a {type(config).__name__}; expected an object")
    for key in ("quantization_config", "compression_config"):
        if config.get(key) is not None:
            raise StageError(
                f"{path}: quantized with {_quantization(config[key])}; expected float weights. Take the "
                "model that it was made from, or dequantize it, and save that with `save_pretrained`."
            )
    return config


def _describe(path: Path) -> str:
    """The kind of a folder without config.json."""
    if not path.is_dir():
        return "no such folder"
    for file, description in OTHER_FOLDERS.items():
        if (path / file).is_file():
            return description.format(path=path)
    content = sorted(entry.name for entry in path.iterdir())
    found = f"found: {shorten(content)}" if content else "the folder is empty"
    return f"no config.json ({found}). Expected a checkpoint: config.json, weights and tokenizer."


def _quantization(settings: Any) -> str:
    named = settings.get("quant_method") if isinstance(settings, dict) else None
    loads_in_bits = isinstance(settings, dict) and any(key.startswith("load_in_") for key in settings)
    return str(named or ("bitsandbytes" if loads_in_bits else "an unknown method"))


def config_label_names(config: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Label names of a classifier, in the order of its logits, as `transformers` gives them.

    Raises StageError unless it is a single-label classifier of two labels or more.
    """
    if config.get("problem_type") in ("multi_label_classification", "regression"):
        raise StageError(f"{path}: a {config['problem_type']} model; expected a single-label classifier")
    labels = _id2label(config, path)
    columns = list(range(len(labels)))
    if sorted(labels) != columns:
        keys = shorten([str(key) for key in sorted(labels)])
        raise StageError(f"{path}: id2label names the columns {keys}; expected 0 to {len(labels) - 1}")
    names = tuple(str(labels[column]) for column in columns)
    if len(names) < 2 or len(set(names)) < len(names):
        raise StageError(
            f"{path}: expected two or more distinct labels in id2label, found {shorten(names) or 'none'}"
        )
    return names


def _id2label(config: dict[str, Any], path: Path) -> dict[int, str | int]:
    """Names by column: those of `id2label`, unless `num_labels` is given and is another number."""
    given = config.get("id2label")
    try:
        labels = None if given is None else {int(column): name for column, name in given.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise StageError(f"{path}: id2label is {given!r:.80}; expected names by column") from error
    count = config.get("num_labels", LABEL_COUNTS.get(str(config.get("model_type")), 2))
    if labels is None or ("num_labels" in config and count != len(labels)):
        count = _whole_number(count, "num_labels", path)
        return {column: f"{UNNAMED}{column}" for column in range(count)}
    if not all(isinstance(name, (str, int)) for name in labels.values()):
        raise StageError(f"{path}: id2label is {given!r:.80}; expected names")
    return labels


def config_int(config: dict[str, Any], name: str, path: Path, default: int | None = None) -> int:
    """A size from a configuration, under its usual name or that of another family.

    Raises StageError if it is no whole number, or is absent and there is no default.
    """
    if name == "num_hidden_layers" and isinstance(config.get("block_sizes"), list):
        return sum(map(int, config["block_sizes"]))  # of Funnel
    for key in (name, *ALIASES.get(name, ())):
        if config.get(key) is not None:
            return _whole_number(config[key], key, path)
    if default is None:
        raise StageError(f"{path}: config.json does not say {name}")
    return default


def config_pad_id(config: dict[str, Any], path: Path) -> int:
    """The id of padding tokens; 0, as in BERT, where it is absent or negative (none)."""
    value = config.get("pad_token_id")
    return 0 if value is None or value == -1 else _whole_number(value, "pad_token_id", path)


def _whole_number(value: Any, name: str, path: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise StageError(f"{path}: config.json says {name}: {value!r:.40}; expected a whole number from 0")
    return value
