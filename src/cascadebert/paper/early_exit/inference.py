"""Early-exit inference: texts that exit are dropped, and the others are packed into full batches again."""

from __future__ import annotations

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
from cascadebert.paper.early_exit.model import MultiExitModel, padding_bias
from cascadebert.thresholds.confidence import max_probability, softmax
from cascadebert.types import Ints, Logits, Predictions, Texts

with extra("train"):
    import torch
    from torch import Tensor

POOLED_BATCHES = 64
"""Batches whose hidden states are held at a time; beyond that a part-filled batch costs nothing."""


class EarlyExitOutputs(NamedTuple):
    """Exits of n texts."""

    layers: Ints  # (n,) layer after which each text exited, counted from 1
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
        layers, logits = run_early_exit(self.model, tokens, self.rule)
        probabilities = softmax(logits)
        labels, confidences = probabilities.argmax(axis=1), max_probability(probabilities)
        names = self.model.label_names
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

    Texts of one padded length run together. After each layer with an evaluated exit those that exit are
    dropped, and the others, from whichever batch, are packed into full batches again. The outputs are those
    of the texts at the (m,) `positions` (default: all), in that order, and do not depend on `batch_tokens`.
    """
    assert not model.training
    selected = np.arange(len(tokens)) if positions is None else positions
    layers = np.zeros(len(selected), dtype=np.int64)
    logits = np.empty((len(selected), model.num_labels), dtype=np.float32)
    for pool in length_batches(tokens.padded_lengths[selected], tokens=POOLED_BATCHES * batch_tokens):
        layers[pool], logits[pool] = _run_pool(model, tokens.batch(selected[pool]), rule, batch_tokens)
    return EarlyExitOutputs(layers, logits)


def compute_exits(
    model: MultiExitModel, tokens: TokenizedTexts, *, label_ids: Ints | None = None
) -> ExitOutputs:
    """Outputs of all exits for n texts; the (n,) true labels are kept with them."""
    assert not model.training
    logits = np.empty((model.depth, len(tokens), model.num_labels), dtype=np.float32)
    lte = np.empty((model.depth, len(tokens)), dtype=np.float32) if model.heads.learned else None
    for batch in length_batches(tokens.padded_lengths, tokens=BATCH_TOKENS):
        with torch.inference_mode():
            batch_logits, batch_lte = model(**_inputs(model, tokens.batch(batch)))
        logits[:, batch] = batch_logits.cpu().numpy()
        if lte is not None:
            lte[:, batch] = batch_lte.cpu().numpy()
    return ExitOutputs.from_logits(logits, lte, label_ids)


@torch.inference_mode()
def _run_pool(model: MultiExitModel, pool: TokenBatch, rule: ExitRule, batch_tokens: int) -> EarlyExitOutputs:
    inputs = _inputs(model, pool)
    mask, count = inputs["attention_mask"], len(pool.input_ids)
    size = max(1, batch_tokens // mask.shape[1])
    batches = zip(*(tensor.split(size) for tensor in inputs.values()), strict=True)
    # of the active texts
    hidden = torch.cat([model.embed(dict(zip(inputs, batch, strict=True))) for batch in batches])
    layers = np.zeros(count, dtype=np.int64)
    logits = np.empty((count, model.num_labels), dtype=np.float32)
    active, outputs = np.arange(count), None
    evaluated = rule.evaluated_exits(model.depth)
    for layer in range(1, model.depth + 1):
        _advance(model, layer, hidden, mask, size)
        is_last = layer == model.depth
        if not (evaluated[layer - 1] or is_last):
            continue
        features = model.features(layer, hidden, mask)
        layer_logits = model.classify(layer, features).cpu().numpy()
        lte = model.error_probability(features) if rule.needs_lte and not is_last else None
        newest = ExitOutputs.from_logits(layer_logits[None], None if lte is None else lte[None].cpu().numpy())
        outputs = newest if outputs is None else outputs.append(newest)
        exiting = np.ones(len(active), dtype=np.bool_) if is_last else rule.should_exit(outputs, layer)
        layers[active[exiting]], logits[active[exiting]] = layer, layer_logits[exiting]
        staying = np.flatnonzero(~exiting)
        if not len(staying):
            break
        if len(staying) < len(active):
            rows = torch.from_numpy(staying).to(hidden.device)
            hidden, mask, active, outputs = hidden[rows], mask[rows], active[staying], outputs.take(staying)
    return EarlyExitOutputs(layers, logits)


def _advance(model: MultiExitModel, layer: int, hidden: Tensor, mask: Tensor, size: int) -> None:
    for start in range(0, len(hidden), size):  # in place, in full batches
        batch = slice(start, start + size)
        hidden[batch] = model.layer(layer, hidden[batch], padding_bias(mask[batch]))


def _inputs(model: MultiExitModel, batch: TokenBatch) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in model_inputs(batch, model.takes_types).items()}
