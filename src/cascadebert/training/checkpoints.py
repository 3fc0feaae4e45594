"""Checkpoints on their way into a stage: found, copied, measured."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.torch_checkpoint import load_classifier, quiet_transformers
from cascadebert.inference.stage_kind import stage_kind
from cascadebert.persistence.checkpoint_config import config_int, config_label_names, read_config
from cascadebert.persistence.folder import file_hashes
from cascadebert.types import Flops

with extra("train"):
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoTokenizer

TOKENIZER_FILES = (
    "tokenizer.json",
    "token_map.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
)
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
COUNTED_LENGTHS = (8, 16, 24)


def fingerprint(*parts: object) -> str:
    """Twelve hexadecimal digits that stand for a combination of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def display_name(source: str) -> str:
    """What to call a model: its folder's own name, or the repository of the Hub with its owner."""
    return Path(source).name if Path(source).is_dir() else source


def checkpoint_fingerprint(path: Path) -> str:
    """Fingerprint of what a checkpoint is: all its files but the README."""
    return fingerprint(file_hashes(path, lambda file: file.is_file() and file.name != "README.md"))


def check_tokenizer(source: Path) -> None:
    """Refuse a checkpoint that was saved without its tokenizer, for which an empty one would be made up.

    Raises:
        StageError: if none of the files that hold a vocabulary is there.
    """
    if not any((source / name).is_file() for name in VOCABULARY_FILES):
        raise StageError(
            f"{source}: no tokenizer (of {', '.join(VOCABULARY_FILES)}). Save the checkpoint with the "
            "tokenizer that it was trained with."
        )


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a checkpoint's tokenizer as it is; make the fast form where only the slow one is there.

    Raises:
        StageError: if there is no tokenizer, or none with a fast form.
    """
    check_tokenizer(source)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if (target / "tokenizer.json").is_file():
        return
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
            tokenizer.save_pretrained(target)
    except (OSError, ValueError, KeyError) as error:
        raise StageError(f"{source}: no tokenizer that transformers can open ({error})") from error
    if not (target / "tokenizer.json").is_file():
        raise StageError(f"{source}: its tokenizer has no fast form (tokenizer.json)")


def weight_files(source: Path) -> list[Path]:
    """A checkpoint's weights in safetensors.

    Raises:
        StageError: if there are none.
    """
    files = sorted([*source.glob("model*.safetensors"), *source.glob("model*.safetensors.index.json")])
    if not files:
        raise StageError(
            f"{source}: no model.safetensors. Save the checkpoint again with transformers' save_pretrained "
            "(weights in pickle files are not kept)."
        )
    return files


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a fine-tuned classifier as it is: configuration, weights in safetensors, tokenizer.

    Raises:
        StageError: if its weights are not in safetensors, or it has no tokenizer.
    """
    target.mkdir()
    for file in (source / "config.json", *weight_files(source)):
        shutil.copyfile(file, target / file.name)
    copy_tokenizer(source, target)


def count_flops(path: Path, **config: Any) -> Flops:
    """Floating-point operations of one row as a function of its tokens, counted by torch as it runs.

    Matrix products are counted (two operations per multiply-add), at three lengths; the polynomial through
    them is exact, as attention is quadratic in the length and all else linear.

    Args:
        path: a checkpoint folder; a static stage's multiplications and additions are known.
        config: as for `load_classifier`.
    """
    known_flops = stage_kind(path).known_flops
    if known_flops is not None:
        return known_flops(config.get("num_labels") or len(config_label_names(read_config(path), path)))
    model = load_classifier(path, **config).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    return flops_polynomial(lambda ids: model(input_ids=ids))


def flops_polynomial(run: Callable[[torch.Tensor], object], device: str = "cpu") -> Flops:
    """Operations of whatever is done with the tokens of one row.

    Args:
        run: given (1, length) token numbers; attention in it must be by plain matrix products.
        device: of the token numbers; on "meta" nothing is computed.
    """
    counts = []
    for length in COUNTED_LENGTHS:
        ids = torch.ones(1, length, dtype=torch.int64, device=device)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            run(ids)
        counts.append(counter.get_total_flops())
    row, token, pair = np.linalg.solve(np.vander(COUNTED_LENGTHS, 3, increasing=True), counts)
    return Flops(round(float(row)), round(float(token)), round(float(pair)))


def check_stage_order(names: Sequence[str], flops: Sequence[Flops]) -> None:
    """Refuse stages that do not grow.

    Raises:
        StageError: if a stage costs as much as the next, or there are fewer than two.
    """
    if len(names) < 2:
        raise StageError(f"a cascade needs two stages or more; given: {', '.join(names) or 'none'}")
    sizes = [float(one.cost_of(np.array([32]))[0]) for one in flops]
    for i in range(len(sizes) - 1):
        if sizes[i] >= sizes[i + 1]:
            raise StageError(
                f"stages go from small to large, but {names[i]} ({sizes[i] / 1e6:,.1f} MFLOPs per row of 32 "
                f"tokens) does not cost less than {names[i + 1]} ({sizes[i + 1] / 1e6:,.1f})"
            )


def depth(path: Path) -> int:
    """Number of layers that a checkpoint's configuration names."""
    return config_int(read_config(path), "num_hidden_layers", path)
