"""The torch engine: runs any `AutoModelForSequenceClassification` on the CPU or a CUDA device."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import extra
from cascadebert.inference.engines.base import TokenBatch, check_precision
from cascadebert.types import Logits

with extra("train"):
    import torch
    from transformers import PreTrainedModel

    from cascadebert.inference.engines.torch_checkpoint import load_classifier

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def has_cuda() -> bool:
    """True if torch finds a CUDA device."""
    return bool(torch.cuda.is_available())


def resolve_precision(precision: str) -> str:
    """The precision requested; "auto" is bfloat16 on a CUDA device that supports it, else float32.

    Raises StageError if the precision is unknown.
    """
    if precision == "auto":
        native = has_cuda() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native else "float32"
    check_precision("torch", precision, PRECISIONS)
    return precision


class TorchEngine:
    """A checkpoint in evaluation mode; compiled if it runs in bfloat16 on a CUDA device."""

    name = "torch"
    streams = 1

    def __init__(self, path: Path, *, precision: str = "auto") -> None:
        self.precision = resolve_precision(precision)
        self.device = "cuda" if has_cuda() else "cpu"
        model = load_classifier(path)
        module: torch.nn.Module = model
        module = module.to(self.device, PRECISIONS[self.precision]).eval()
        compiles = self.device == "cuda" and self.precision == "bfloat16"
        self._model: Callable[..., Any] = compile_module(module) if compiles else module
        self._token_types = takes_token_types(model)

    @torch.inference_mode()
    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) in float32."""
        inputs = model_inputs(batch, self._token_types)
        outputs = self._model(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
        return np.asarray(outputs.logits.float().cpu().numpy())


ENGINE = TorchEngine


def compile_module(module: torch.nn.Module) -> Callable[..., Any]:
    """Fuse small operations, for any number of rows and any length."""
    return torch.compile(module, dynamic=True)


def takes_token_types(model: PreTrainedModel) -> bool:
    """True if the model tells the two texts of a pair apart by token types."""
    accepted = "token_type_ids" in inspect.signature(model.forward).parameters
    return accepted and getattr(model.config, "type_vocab_size", 0) > 1


def model_inputs(batch: TokenBatch, token_types: bool) -> dict[str, torch.Tensor]:
    """A token batch as the keyword arguments of a `transformers` model."""
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * token_types
    return {name: torch.from_numpy(getattr(batch, name)) for name in names}
