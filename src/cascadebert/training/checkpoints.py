"""Copies, fingerprints and costs of checkpoints that become stages."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import StageError, extra, reason
from cascadebert.inference.engines.load import stage_kind
from cascadebert.inference.engines.torch import (
    load_classifier,
    max_positions,
    plain_token,
    quiet_transformers,
)
from cascadebert.persistence.checkpoint_config import config_label_names, read_config
from cascadebert.persistence.folder import file_hashes
from cascadebert.training.tokenizer_files import check_vocabulary, copy_tokenizer, open_tokenizer
from cascadebert.types import Flops

with extra("train"):
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import PreTrainedModel

WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model*.bin", "pytorch_model*.bin.index.json")
COUNTED_LENGTHS = (8, 16, 24)


def fingerprint(*parts: object) -> str:
    """Twelve hexadecimal digits that identify a combination of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def display_name(source: str) -> str:
    """The name of a model: of its folder without the path, or of its repository on the Hub with the owner."""
    return Path(os.path.abspath(source)).name if Path(source).is_dir() else source  # noqa: PTH100 (keeps links)


def checkpoint_fingerprint(path: Path) -> str:
    """Fingerprint of all files of a checkpoint but the README."""
    return fingerprint(file_hashes(path, lambda file: file.is_file() and file.name != "README.md"))


def weight_files(source: Path) -> list[Path]:
    """The files of a checkpoint's weights: in safetensors, else as torch saved them.

    Raises StageError if there are none.
    """
    read_config(source)  # reports what is no checkpoint
    for patterns in (WEIGHTS, PICKLED_WEIGHTS):
        files = sorted(file for pattern in patterns for file in source.glob(pattern))
        if files:
            return files
    raise StageError(
        f"{source}: no weights (model.safetensors or pytorch_model.bin). Save the checkpoint again with "
        "transformers' save_pretrained."
    )


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy configuration, weights and tokenizer of a fine-tuned classifier into an empty folder.

    Weights in safetensors are copied as they are. Others are read as tensors only, never as code, and
    written in safetensors. Raises StageError if something is missing.
    """
    files = weight_files(source)
    if files[0].name.startswith("model"):
        for file in files:
            shutil.copyfile(file, target / file.name)
    else:
        with quiet_transformers():
            load_classifier(source).save_pretrained(target)
    shutil.copyfile(source / "config.json", target / "config.json")
    copy_tokenizer(source, target)


def count_flops(path: Path, **config: Any) -> Flops:
    """Floating-point operations per text as a function of its tokens; `config` is that of `load_classifier`.

    Those of a static stage are known; those of others are counted by torch as the model runs. Raises
    StageError if it does not run.
    """
    known_flops = stage_kind(path).known_flops
    if known_flops is not None:
        return known_flops(config.get("num_labels") or len(config_label_names(read_config(path), path)))
    return _model_flops(load_classifier(path, **config), path)


def _model_flops(model: PreTrainedModel, path: Path) -> Flops:
    token = plain_token(model)
    try:
        model.eval().requires_grad_(False).set_attn_implementation("eager")
        return flops_polynomial(lambda ids: model(input_ids=torch.full_like(ids, token)))
    except Exception as error:  # what a model's own code raises for a configuration that it cannot run
        raise StageError(f"{path}: the model does not run ({reason(error)})") from error


def read_max_positions(path: Path, **config: Any) -> int | None:
    """The most tokens that a checkpoint's position tables hold; None if it has none."""
    return None if stage_kind(path).own_engine else max_positions(load_classifier(path, **config).eval())


def flops_polynomial(run: Callable[[torch.Tensor], object], device: str = "cpu") -> Flops:
    """Operations of what `run` does with (1, length) token ids; on the device "meta" nothing is computed.

    Matrix products (two operations per multiply-add) are counted at three lengths. The polynomial through
    them is exact: attention, which must be eager, is quadratic in the length and all else linear.
    """
    counts = []
    for length in COUNTED_LENGTHS:
        ids = torch.ones(1, length, dtype=torch.int64, device=device)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            run(ids)
        counts.append(counter.get_total_flops())
    row, token, pair = np.linalg.solve(np.vander(COUNTED_LENGTHS, 3, increasing=True), counts)
    return Flops(round(float(row)), round(float(token)), round(float(pair)))


def check_stages(names: Sequence[str], sources: Sequence[Path], **config: Any) -> list[float]:
    """Operations of each stage on a text of 32 tokens; `config` is that of `load_classifier`.

    Raises StageError if there are fewer than two stages, one has no tokenizer or one with more tokens than
    the model embeds, or costs as much as the next.
    """
    if len(names) < 2:
        raise StageError(f"a cascade needs two stages or more; given: {', '.join(names) or 'none'}")
    flops = []
    for name, source in zip(names, sources, strict=True):
        if stage_kind(source).known_flops is None:
            model = load_classifier(source, **config)  # first: a tokenizer also fails over a bad config.json
            check_vocabulary(name, open_tokenizer(source), model)
            counted = _model_flops(model, source)
        else:
            open_tokenizer(source)
            counted = count_flops(source, **config)
        flops.append(float(counted.cost_of(np.array([32]))[0]))
    for i in range(len(names) - 1):
        if flops[i] >= flops[i + 1]:
            raise StageError(
                f"stages go from small to large, but {names[i]} ({flops[i] / 1e6:,.1f} MFLOPs per text of 32 "
                f"tokens) does not cost less than {names[i + 1]} ({flops[i + 1] / 1e6:,.1f})"
            )
    return flops
