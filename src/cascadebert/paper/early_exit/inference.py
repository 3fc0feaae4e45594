"""The running loop of early exit: rows that leave are dropped, those that stay fill whole batches again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascadebert.errors import extra
from cascadebert.inference.batching import TokenizedTexts, length_batches
from cascadebert.inference.engines.base import TokenBatch
from cascadebert.inference.engines.torch import has_cuda, model_inputs
from cascadebert.inference.stage import BATCH_TOKENS
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper.early_exit.exit_outputs import ExitOutputs
from cascadebert.paper.early_exit.exit_rules import ExitRule
from cascadebert.paper.early_exit.model import MultiExitModel, padding_blocked
from cascadebert.thresholds.confidence import max_probability, softmax
from cascadebert.types import Bools, Ints, Logits, Predictions, Texts

with extra("train"):
    import torch
    from torch import Tensor

POOLED_BATCHES = 64
"""Hidden states of so many batches are held at a time; beyond that a part-filled batch costs nothing."""


@dataclass(frozen=True)
class EarlyExitOutputs:
    """Where rows left and what they were answered.

    Attributes:
        layers: (n,) the layer each row left after, counted from 1.
        logits: (n, num_labels) of its exit.
    """

    layers: Ints
    logits: Logits


@dataclass(frozen=True)
class EarlyExitPredictor:
    """A model with exits and the rule of when to take them: a predictor.

    Attributes:
        model: in evaluation mode.
        encoder: its tokenizer.
        rule: when a row leaves.
        batch_tokens: budget of a batch, in padded tokens; answers do not depend on it.
    """

    model: MultiExitModel
    tokenizer: StageTokenizer
    rule: ExitRule
    batch_tokens: int = BATCH_TOKENS

    @classmethod
    def from_folder(cls, folder: Path, rule: ExitRule) -> EarlyExitPredictor:
        """Open what training wrote, on a CUDA device if there is one.

        Raises:
            StageError: if the folder is not a model with exits.
        """
        model, length = MultiExitModel.load(folder)
        model.to("cuda" if has_cuda() else "cpu")
        return cls(model, StageTokenizer(folder, max_length=length), rule)

    def predict(self, texts: Texts) -> Predictions:
        """Answers; `stages` is the layer that a row left after."""
        rows = self.tokenizer.encode(texts)
        left = run_early_exit(self.model, rows, self.rule, batch_tokens=self.batch_tokens)
        said = softmax(left.logits)
        return Predictions(
            said.argmax(axis=1), said, max_probability(said), left.layers, self.model.label_names
        )


def run_early_exit(
    model: MultiExitModel,
    rows: TokenizedTexts,
    rule: ExitRule,
    *,
    positions: Ints | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> EarlyExitOutputs:
    """Run the rows layer by layer, each only as far as the rule wants, in float32.

    Rows of one padded length go together. After each layer whose exit is tried the rows that leave are
    dropped, and those that stay, whichever batch they were in, fill whole batches again.

    Args:
        model: in evaluation mode.
        rows: tokens.
        rule: when a row leaves; at the last layer all do.
        positions: (m,) which rows; default all.
        batch_tokens: budget of a batch, in padded tokens.

    Returns:
        Of m rows, in the order of `positions`.
    """
    assert not model.training
    wanted = np.arange(len(rows)) if positions is None else positions
    place = np.empty(len(rows), dtype=np.int64)
    place[wanted] = np.arange(len(wanted))
    layers = np.zeros(len(wanted), dtype=np.int64)
    logits = np.empty((len(wanted), model.num_labels), dtype=np.float32)
    tried = rule.tried(model.depth)
    for pool in length_batches(rows.padded_lengths, wanted, tokens=POOLED_BATCHES * batch_tokens):
        left = _run_pool(model, rows.batch(pool), rule, tried, batch_tokens)
        layers[place[pool]], logits[place[pool]] = left.layers, left.logits
    return EarlyExitOutputs(layers, logits)


def compute_exits(
    model: MultiExitModel,
    rows: TokenizedTexts,
    *,
    label_ids: Ints | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> ExitOutputs:
    """What all exits say of all rows, to decide on later.

    Args:
        model: in evaluation mode.
        rows: tokens of n rows.
        label_ids: (n,) the true labels, to be kept with it.
        batch_tokens: budget of a batch, in padded tokens.
    """
    assert not model.training
    logits = np.empty((model.depth, len(rows), model.num_labels), dtype=np.float32)
    lte = np.empty((model.depth, len(rows)), dtype=np.float32) if model.exits.learned else None
    for batch in length_batches(rows.padded_lengths, np.arange(len(rows)), tokens=batch_tokens):
        with torch.inference_mode():
            answers, doubts = model.all_exits(_inputs(model, rows.batch(batch)))
        logits[:, batch] = answers.cpu().numpy()
        if lte is not None and doubts is not None:
            lte[:, batch] = doubts.cpu().numpy()
    return ExitOutputs.of(logits, lte, label_ids)


@torch.inference_mode()
def _run_pool(
    model: MultiExitModel, pool: TokenBatch, rule: ExitRule, tried: Bools, batch_tokens: int
) -> EarlyExitOutputs:
    """Rows of one padded length through all layers; `hidden` holds those that are still in."""
    inputs = _inputs(model, pool)
    mask, count = inputs["attention_mask"], len(pool.input_ids)
    size = max(1, batch_tokens // mask.shape[1])
    starts = range(0, count, size)
    parts = [{name: one[start : start + size] for name, one in inputs.items()} for start in starts]
    hidden = torch.cat([model.embed(part) for part in parts])
    layers = np.zeros(count, dtype=np.int64)
    logits = np.empty((count, model.num_labels), dtype=np.float32)
    active, said = np.arange(count), None
    for layer in range(1, model.depth + 1):
        _advance(model, layer, hidden, mask, size)
        last = layer == model.depth
        if not (tried[layer - 1] or last):
            continue
        read = model.read(layer, hidden, mask)
        answers, newest = _ask(model, layer, read, reads_lte=rule.reads_lte and not last)
        said = newest if said is None else said.then(newest)
        leaving = np.ones(len(active), dtype=np.bool_) if last else rule.leaves(said, layer)
        layers[active[leaving]], logits[active[leaving]] = layer, answers[leaving]
        stay = np.flatnonzero(~leaving)
        if not len(stay):
            break
        if len(stay) < len(active):
            kept = torch.from_numpy(stay).to(hidden.device)
            hidden, mask, active, said = hidden[kept], mask[kept], active[stay], said.take(stay)
    return EarlyExitOutputs(layers, logits)


def _advance(model: MultiExitModel, layer: int, hidden: Tensor, mask: Tensor, size: int) -> None:
    """Take the rows through one layer in place, in full batches."""
    for start in range(0, len(hidden), size):
        some = slice(start, start + size)
        hidden[some] = model.layer(layer, hidden[some], padding_blocked(mask[some]))


def _ask(model: MultiExitModel, layer: int, read: Tensor, *, reads_lte: bool) -> tuple[Logits, ExitOutputs]:
    """What one exit says: (rows, num_labels) logits, and what a rule sees of them."""
    answers = model.answer(layer, read).cpu().numpy()
    doubts = model.doubt(read) if reads_lte else None
    return answers, ExitOutputs.of(answers[None], None if doubts is None else doubts[None].cpu().numpy())


def _inputs(model: MultiExitModel, batch: TokenBatch) -> dict[str, Tensor]:
    """The batch where the model is."""
    device = next(model.parameters()).device
    return {name: one.to(device) for name, one in model_inputs(batch, model.takes_types).items()}
