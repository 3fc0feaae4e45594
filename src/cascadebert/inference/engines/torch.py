"""The torch engine: any `AutoModelForSequenceClassification`, on the CPU or a CUDA device."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.base import CEILING_REPEATS, CEILING_SIZE, TokenBatch
from cascadebert.timing import interleaved
from cascadebert.types import Logits

with extra("train"):
    import torch
    from transformers import PreTrainedModel

    from cascadebert.inference.engines.torch_checkpoint import load_classifier

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def has_cuda() -> bool:
    """Whether there is a device that is faster than a processor."""
    return bool(torch.cuda.is_available())


def resolve_precision(wanted: str) -> str:
    """The precision that is meant: as wanted; "auto" is bfloat16 on a CUDA device that has it, else float32.

    Raises:
        StageError: if it is unknown.
    """
    if wanted == "auto":
        cuda = has_cuda() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if cuda else "float32"
    if wanted not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise StageError(f"the torch engine has no precision {wanted!r}; expected auto, {known}")
    return wanted


class TorchEngine:
    """A checkpoint in torch, in evaluation mode; on a CUDA device in bfloat16 compiled."""

    name = "torch"
    streams = 1

    def __init__(self, path: Path, *, precision: str = "auto") -> None:
        self.precision = resolve_precision(precision)
        self.device = "cuda" if has_cuda() else "cpu"
        model = load_classifier(path)
        module: torch.nn.Module = model
        module = module.to(self.device, PRECISIONS[self.precision]).eval()
        quick = self.device == "cuda" and self.precision == "bfloat16"
        self._model: Callable[..., Any] = compiled(module) if quick else module
        self._takes_types = takes_token_types(model)

    @torch.inference_mode()
    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels), in float32."""
        given = model_inputs(batch, self._takes_types)
        answer = self._model(**{name: tensor.to(self.device) for name, tensor in given.items()})
        return np.asarray(answer.logits.float().cpu().numpy())


ENGINE = TorchEngine


def compiled(module: torch.nn.Module) -> Callable[..., Any]:
    """A module with its small operations fused, for any number of rows and any length."""
    return torch.compile(module, dynamic=True)


def matrix_ceiling(precision: str) -> float:
    """Floating-point operations per second of large matrix products, the best of some."""
    device = "cuda" if has_cuda() else "cpu"
    one = torch.ones(CEILING_SIZE, CEILING_SIZE, dtype=PRECISIONS[precision], device=device)

    def run() -> None:
        (one @ one)[0, 0].item()

    (seconds,) = interleaved([run], repeats=CEILING_REPEATS)
    return float(2 * CEILING_SIZE**3 / min(seconds))


def takes_token_types(model: PreTrainedModel) -> bool:
    """Whether the model tells the two texts of a pair apart by token types."""
    named = "token_type_ids" in inspect.signature(model.forward).parameters
    return named and getattr(model.config, "type_vocab_size", 0) > 1


def model_inputs(batch: TokenBatch, token_types: bool) -> dict[str, torch.Tensor]:
    """A token batch as the keyword arguments of a `transformers` model."""
    given = {
        "input_ids": torch.from_numpy(batch.input_ids),
        "attention_mask": torch.from_numpy(batch.attention_mask),
    }
    if token_types:
        given["token_type_ids"] = torch.from_numpy(batch.token_type_ids)
    return given
