"""Early-exit inference: texts that exit are dropped, and the others are packed into full batches again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cascadebert.errors import extra
from cascadebert.inference.batching import TokenizedTexts, length_batches
from cascadebert.inference.engines.base import TokenBatch
from cascadebert.inference.engines.torch import has_cuda, model_inputs
from cascadebert.inference.stage import BATCH_TOKENS
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper.early_exit.exits import ExitOutputs, ExitRule
from cascadebert.paper.early_exit.model import MultiExitModel
from cascadebert.thresholds.confidence import max_probability, softmax
from cascadebert.types import Ints, Logits, Predictions, Texts

with extra("train"):
    import torch
    from torch import Tensor

POOLED_BATCHES = 64
"""Batches whose hidden states are held at a time; beyond that a part-filled batch costs nothing."""


class EarlyExitOutputs(NamedTuple):
    """Exits of n texts."""

    numbers: Ints  # (n,) exit that each text took, counted from 1
    logits: Logits  # (n, num_labels) of that exit


@dataclass(frozen=True)
class EarlyExitPredictor:
    """A multi-exit model in evaluation mode with its exit rule."""

    model: MultiExitModel
    tokenizer: StageTokenizer
    rule: ExitRule

    @classmethod
    def from_folder(cls, folder: Path, rule: ExitRule) -> EarlyExitPredictor:
        """Open a trained model, on a CUDA device if there is one. Raises StageError if it is none."""
        model, max_length = MultiExitModel.load(folder)
        model.to("cuda" if has_cuda() else "cpu")
        return cls(model, StageTokenizer(folder, max_length=max_length), rule)

    def predict(self, texts: Texts) -> Predictions:
        """Predictions whose `stages` are the layers after which the texts exited."""
        tokens = self.tokenizer.encode(texts)
        numbers, logits = run_early_exit(self.model, tokens, self.rule)
        probabilities = softmax(logits)
        labels, confidences = probabilities.argmax(axis=1), max_probability(probabilities)
        layers, names = np.array(self.model.exit_layers)[numbers - 1], self.model.label_names
        return Predictions(labels, probabilities, confidences, layers, tokens.truncated, names)


def run_early_exit(
    model: MultiExitModel,
    tokens: TokenizedTexts,
    rule: ExitRule,
    *,
    positions: Ints | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> EarlyExitOutputs:
    """Run texts layer by layer in float32, each only as far as the rule requires.

    Texts of one padded length run together. After each layer with an evaluated exit those that take it are
    dropped, and the others, from whichever batch, are packed into full batches again. The outputs are those
    of the texts at the (m,) `positions` (default: all), in that order, and do not depend on `batch_tokens`.
    """
    assert not model.training
    selected = np.arange(len(tokens)) if positions is None else positions
    numbers = np.zeros(len(selected), dtype=np.int64)
    logits = np.empty((len(selected), model.num_labels), dtype=np.float32)
    for pool in length_batches(tokens.padded_lengths[selected], tokens=POOLED_BATCHES * batch_tokens):
        numbers[pool], logits[pool] = _run_pool(model, tokens.batch(selected[pool]), rule, batch_tokens)
    return EarlyExitOutputs(numbers, logits)


def compute_exits(
    model: MultiExitModel, tokens: TokenizedTexts, *, label_ids: Ints | None = None
) -> ExitOutputs:
    """Outputs of all exits for n texts; the (n,) true labels are kept with them."""
    assert not model.training
    logits = np.empty((model.num_exits, len(tokens), model.num_labels), dtype=np.float32)
    lte = np.empty((model.num_exits, len(tokens)), dtype=np.float32) if model.heads.learned else None
    for batch in length_batches(tokens.padded_lengths, tokens=BATCH_TOKENS):
        with torch.inference_mode():
            batch_logits, batch_lte = model(**batch_inputs(model, tokens.batch(batch)))
        logits[:, batch] = batch_logits.cpu().numpy()
        if lte is not None:
            lte[:, batch] = batch_lte.cpu().numpy()
    return ExitOutputs.from_logits(logits, lte, label_ids)


@torch.inference_mode()
def _run_pool(model: MultiExitModel, pool: TokenBatch, rule: ExitRule, batch_tokens: int) -> EarlyExitOutputs:
    active, count = _ActiveTexts.embedded(model, batch_inputs(model, pool), batch_tokens), len(pool.input_ids)
    numbers = np.zeros(count, dtype=np.int64)
    logits = np.empty((count, model.num_labels), dtype=np.float32)
    rows, outputs, layer = np.arange(count), None, 0  # of the active texts
    evaluated = rule.evaluated_exits(model.num_exits)
    for number, exit_layer in enumerate(model.exit_layers, 1):
        is_last = number == model.num_exits
        if not (evaluated[number - 1] or is_last):
            continue
        active.advance(model, layer, exit_layer)
        layer = exit_layer
        exit_logits, lte = active.exit(model, number, lte=rule.needs_lte and not is_last)
        newest = ExitOutputs.from_logits(exit_logits[None], None if lte is None else lte[None])
        outputs = newest if outputs is None else outputs.append(newest)
        exiting = np.ones(len(rows), dtype=np.bool_) if is_last else rule.should_exit(outputs, number)
        numbers[rows[exiting]], logits[rows[exiting]] = number, exit_logits[exiting]
        staying = np.flatnonzero(~exiting)
        if not len(staying):
            break
        if len(staying) < len(rows):
            active, rows, outputs = active.take(staying), rows[staying], outputs.take(staying)
    return EarlyExitOutputs(numbers, logits)


@dataclass(frozen=True)
class _ActiveTexts:
    """Texts of one padded length that have not exited, and their hidden states."""

    inputs: dict[str, Tensor]
    hidden: Tensor  # (rows, length, hidden)
    size: int  # rows of a full batch

    @classmethod
    def embedded(cls, model: MultiExitModel, inputs: dict[str, Tensor], batch_tokens: int) -> _ActiveTexts:
        rows, length = inputs["attention_mask"].shape
        size = max(1, batch_tokens // length)
        batches = (
            {name: tensor[start : start + size] for name, tensor in inputs.items()}
            for start in range(0, rows, size)
        )
        return cls(inputs, torch.cat([model.embed(batch) for batch in batches]), size)

    def advance(self, model: MultiExitModel, before: int, after: int) -> None:
        """Run the layers behind `before` up to `after`, in place, in full batches."""
        for layer in range(before + 1, after + 1):
            for batch, hidden in self._batches():
                hidden.copy_(model.layer(layer, hidden, batch))

    def exit(self, model: MultiExitModel, number: int, *, lte: bool) -> tuple[Logits, Logits | None]:
        """(rows, num_labels) logits and, if asked for, (rows,) error probabilities of an exit."""
        found = [model.exit(number, hidden, batch) for batch, hidden in self._batches()]
        logits = torch.cat([logits for logits, _ in found]).cpu().numpy()
        errors = [error for _, error in found if error is not None and lte]
        return logits, torch.cat(errors).cpu().numpy() if errors else None

    def take(self, positions: Ints) -> _ActiveTexts:
        rows = torch.from_numpy(positions).to(self.hidden.device)
        inputs = {name: tensor[rows] for name, tensor in self.inputs.items()}
        return _ActiveTexts(inputs, self.hidden[rows], self.size)

    def _batches(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for start in range(0, len(self.hidden), self.size):
            part = slice(start, start + self.size)
            yield {name: tensor[part] for name, tensor in self.inputs.items()}, self.hidden[part]


def batch_inputs(model: MultiExitModel, batch: TokenBatch) -> dict[str, Tensor]:
    """A token batch as the keyword arguments of a model, on its device."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in model_inputs(batch, model.takes_types).items()}
