"""Training steps that survive an interruption: the Hugging Face `Trainer`, only `compute_loss` overridden."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import extra
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.torch import model_inputs, plain_token, quiet_transformers
from cascadebert.progress import progress_bar
from cascadebert.training.config import DistillConfig, FitConfig
from cascadebert.types import Ints

with extra("train"):
    import torch
    from torch import nn
    from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState
    from transformers import TrainingArguments as Arguments
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from transformers.trainer_utils import get_last_checkpoint

log = logging.getLogger("cascadebert")

CHECKPOINTS, MIN_STEPS_BETWEEN_CHECKPOINTS = 10, 50
TOKEN_TABLE = "word_embeddings"
MAX_PAD_ID = 1000
# parameters of glibc's `mallopt`, M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_MAX: retaining value, default
MALLOC_OPTIONS = {-1: (2**31 - 1, 128 * 1024), -2: (64 * 1024 * 1024, 128 * 1024), -4: (0, 65_536)}

Inputs = dict[str, torch.Tensor]
Loss = Callable[[nn.Module, Inputs, int], torch.Tensor]
"""Loss of a module on the inputs of a step, whose number is counted from 0."""


def train_steps(
    module: nn.Module,
    batches: Sequence[Ints],
    config: FitConfig | DistillConfig,
    collate: Callable[[Ints], Inputs],
    loss: Loss,
    *,
    folder: Path,
    description: str,
    amounts: Ints | None = None,
    clipped: Sequence[nn.Module] | None = None,
) -> int:
    """Train a module in place with AdamW, one step per batch, and return the number of steps that were done.

    `collate` makes inputs of the (rows,) positions of a batch. With `amounts`, tokens are counted instead of
    steps: `amounts[i]` in step i. The gradients of each of the `clipped` parts, by default of the whole
    module, are clipped to a norm of 1.

    Training resumes from the newest checkpoint in `folder`, and restores the random state: since the batches
    are drawn beforehand, an interrupted run ends in the same weights.
    """
    done = np.arange(len(batches) + 1) if amounts is None else np.append(0, np.cumsum(amounts))
    unit = "steps" if amounts is None else "tokens"
    arguments = Arguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        learning_rate=config.learning_rate,
        warmup_steps=min(config.warmup_ratio, 1 - 1e-9),  # from 1 on it would be a number of steps
        lr_scheduler_type="linear",
        max_grad_norm=0.0,  # clipped in the callback
        bf16=use_bf16(config.bf16),
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        save_strategy="steps",
        save_steps=max(MIN_STEPS_BETWEEN_CHECKPOINTS, len(batches) // CHECKPOINTS),
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    checkpoint = _last_complete_checkpoint(folder)
    progress = progress_bar(description, int(done[-1]), unit)
    with progress as show, quiet_transformers(), warnings.catch_warnings(), retain_malloc_arena():
        warnings.simplefilter("ignore")
        trainer = LossTrainer(
            model=module,
            args=arguments,
            train_dataset=batches,  # any sequence will do: each item is a batch
            data_collator=lambda items: collate(np.concatenate(items)),
            callbacks=[_StepCallback(lambda step: show(int(done[step])), clipped or [module])],
        )
        trainer.loss = loss
        for noisy in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(noisy)
        trainer.train(resume_from_checkpoint=checkpoint)
    first = 0 if checkpoint is None else int(checkpoint.rpartition("-")[2])
    return int(done[-1] - done[first])


def padded_inputs(texts: TokenizedTexts, positions: Ints, token_types: bool) -> Inputs:
    """The texts at (rows,) positions as a model's inputs, padded to the longest of them."""
    return model_inputs(texts.batch(positions, length=int(texts.lengths[positions].max())), token_types)


def use_bf16(requested: bool | None) -> bool:
    """Decide whether to train in bfloat16: as requested, else where the hardware supports it."""
    if requested is not None:
        return requested
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


@torch.inference_mode()
def runs_in_bf16(model: PreTrainedModel) -> bool:
    """False for the few families whose code needs float32 (FNet, MRA)."""
    ids = torch.full((1, 8), plain_token(model))
    try:
        deepcopy(model).bfloat16()(input_ids=ids, attention_mask=torch.ones_like(ids))
    except RuntimeError:
        return False
    return True


def use_eager_attention(model: PreTrainedModel) -> None:
    """Avoid torch's fused attention on a CPU, where its backward pass is slow."""
    if not torch.cuda.is_available():
        model.set_attn_implementation("eager")


def _last_complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint. Those whose writing was interrupted are deleted."""
    for checkpoint in folder.glob("checkpoint-*"):
        try:  # the state is what `Trainer` writes last
            json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


class LossTrainer(Trainer):
    """The `Trainer` with the loss that is assigned to it."""

    loss: Loss

    def compute_loss(self, model: nn.Module, inputs: Inputs, *_: Any, **__: Any) -> torch.Tensor:
        """The loss of a step; see `Trainer.compute_loss`."""
        return self.loss(model, inputs, self.state.global_step)


class _StepCallback(TrainerCallback):
    """Clips the gradients of each part before a step, and reports progress after it."""

    def __init__(self, report: Callable[[int], None], clipped: Sequence[nn.Module]) -> None:
        self._report, self._clipped = report, clipped

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        for part in self._clipped:
            nn.utils.clip_grad_norm_(part.parameters(), 1.0)

    def on_step_end(self, args: Arguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self._report(state.global_step)


@contextlib.contextmanager
def retain_malloc_arena() -> Iterator[None]:
    """Make glibc keep large freed blocks; without glibc, do nothing.

    Each step allocates gradients as large as the token table: fresh pages from the system every time cost up
    to a third of the step. Free memory is returned at the end.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        yield
        return
    for option, (retaining, _) in MALLOC_OPTIONS.items():
        library.mallopt(option, retaining)
    try:
        yield
    finally:
        for option, (_, default) in MALLOC_OPTIONS.items():
            library.mallopt(option, default)
        library.malloc_trim(0)


@contextlib.contextmanager
def restrict_embeddings(module: nn.Module, texts: TokenizedTexts) -> Iterator[TokenizedTexts]:
    """Replace a model's token table by the rows that the texts use, and write them back at the end.

    Other tokens have a gradient of 0, and AdamW without weight decay does not change them, so the weights are
    those of training with the full table, but for the order of the sums in the norm of the gradients.

    Yields the texts with ids of the small table; ids up to the padding id stay as they are. A model without
    exactly one `word_embeddings` table, or with a frozen one, is left unchanged.
    """
    names = [name for name, _ in module.named_modules() if name.rpartition(".")[2] == TOKEN_TABLE]
    full = module.get_submodule(names[0]) if len(names) == 1 else None
    if (
        not isinstance(full, nn.Embedding)
        or not full.weight.requires_grad
        or texts.padding.token_id > MAX_PAD_ID
    ):
        yield texts
        return
    used = np.union1d(np.arange(texts.padding.token_id + 1), texts.ids)
    index = torch.from_numpy(used).to(full.weight.device)
    small = nn.Embedding.from_pretrained(
        full.weight.detach()[index], freeze=False, padding_idx=full.padding_idx
    )
    module.set_submodule(names[0], small)
    yield replace(texts, ids=np.searchsorted(used, texts.ids).astype(np.int32))
    module.set_submodule(names[0], full)
    with torch.no_grad():
        full.weight[index] = small.weight.to(full.weight.device)
