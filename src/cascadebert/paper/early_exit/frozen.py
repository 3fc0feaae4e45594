"""The second stage of DeeBERT: exits learn on the states of a frozen encoder, which runs once for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from cascadebert.errors import extra
from cascadebert.inference.batching import TokenizedTexts, length_batches
from cascadebert.inference.engines.torch import has_cuda
from cascadebert.inference.stage import BATCH_TOKENS
from cascadebert.paper.early_exit.inference import batch_inputs
from cascadebert.paper.early_exit.model import MultiExitModel
from cascadebert.persistence.folder import atomic_directory
from cascadebert.training.config import FitConfig
from cascadebert.training.train_stage import TrainingData, training_order
from cascadebert.training.trainer import Inputs, Loss, train_steps
from cascadebert.types import Ints

with extra("train"):
    import torch
    from torch import Tensor, nn

STATES, LOGITS = "states.npy", "logits.npy"


@dataclass(frozen=True)
class FrozenStates:
    """Inputs of the exits before the last for n texts, and the logits of the last exit."""

    states: NDArray[np.float16]  # (exits - 1, n, hidden) memory-mapped
    logits: NDArray[np.float32]  # (n, num_labels)


def frozen_states(model: MultiExitModel, tokens: TokenizedTexts, *, work: Path, key: str) -> FrozenStates:
    """The states and logits of n texts, computed once for a key and reading and then read from `work`."""
    folder = work / f"states-{model.heads.reads}-{key}"
    if not folder.is_dir():
        with atomic_directory(folder, overwrite=False) as new:
            _compute(model, tokens, new)
    return FrozenStates(np.load(folder / STATES, mmap_mode="r"), np.load(folder / LOGITS))


@torch.inference_mode()
def _compute(model: MultiExitModel, tokens: TokenizedTexts, folder: Path) -> None:
    model.to(_device()).eval()
    shape = (model.num_exits - 1, len(tokens), model.layered.width)
    states = np.lib.format.open_memmap(folder / STATES, mode="w+", dtype=np.float16, shape=shape)
    logits = np.empty((len(tokens), model.num_labels), dtype=np.float32)
    for batch in length_batches(tokens.padded_lengths, tokens=BATCH_TOKENS):
        inputs = batch_inputs(model, tokens.batch(batch))
        found = model.layered.states(inputs)
        before = [
            model.features(found[layer - 1], inputs["attention_mask"]) for layer in model.exit_layers[:-1]
        ]
        states[:, batch] = torch.stack(before).half().cpu().numpy()
        logits[batch] = model.layered.logits(found[-1], inputs).cpu().numpy()
    states.flush()
    np.save(folder / LOGITS, logits)


def _device() -> str:
    return "cuda" if has_cuda() else "cpu"


class _Exits(nn.Module):
    """The exits before the last of a model, on stored states."""

    def __init__(self, model: MultiExitModel) -> None:
        super().__init__()
        self.exits = model.exits
        self._classify: Callable[[int, Tensor], Tensor] = model.classify  # its other parameters do not learn

    @override
    def forward(self, states: Tensor, last: Tensor) -> tuple[Tensor, None]:
        """(exits, rows, num_labels) logits, from (rows, exits - 1, hidden) states and the last exit's."""
        before = [self._classify(number, read) for number, read in enumerate(states.unbind(1), 1)]
        return torch.stack([*before, last.to(before[0].dtype)]), None


def train_exits(
    model: MultiExitModel,
    stored: FrozenStates,
    tokens: TokenizedTexts,
    data: TrainingData,
    fit: FitConfig,
    loss: Loss,
    folder: Path,
    description: str,
) -> None:
    """Train the exits before the last in place; no other parameter changes."""
    order = training_order(tokens.lengths, batch_size=fit.batch_size, epochs=fit.epochs, seed=fit.seed)
    batches = np.split(order, range(fit.batch_size, len(order), fit.batch_size))
    model.requires_grad_(False)
    model.exits.requires_grad_(True)
    model.to(_device()).train()  # with dropout in the heads

    def collate(positions: Ints) -> Inputs:
        states = torch.from_numpy(stored.states[:, positions].astype(np.float32)).transpose(0, 1)
        last, labels = torch.from_numpy(stored.logits[positions]), torch.from_numpy(data.label_ids[positions])
        return {"states": states, "last": last, "labels": labels}

    train_steps(_Exits(model), batches, fit, collate, loss, folder=folder, description=description)
