"""Training steps that survive a kill: the Hugging Face `Trainer`, only its `compute_loss` hook overridden."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import extra
from cascadebert.inference.engines.torch_checkpoint import quiet_transformers
from cascadebert.progress import progress_bar
from cascadebert.types import Ints

with extra("train"):
    import torch
    from torch.utils.data import Dataset
    from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState
    from transformers import TrainingArguments as Arguments
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from transformers.trainer_utils import get_last_checkpoint
import ctypes
import sys
from collections.abc import Iterator
from dataclasses import replace

from cascadebert.errors import extra
from cascadebert.inference.batching import TokenizedTexts

with extra("train"):
    import torch
    from torch import nn

log = logging.getLogger("cascadebert")
CHECKPOINTS = 10
FEWEST_STEPS_BETWEEN = 50

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class OptimizerConfig:
    """How a run of training steps is optimised.

    Attributes:
        learning_rate: of AdamW, falling linearly to 0.
        warmup_ratio: share of the steps in which it rises linearly from 0.
        bf16: whether matrix products are in bfloat16.
        seed: of what is random in a step.
    """

    learning_rate: float
    warmup_ratio: float
    bf16: bool
    seed: int


def train_steps(
    module: torch.nn.Module,
    batches: Sequence[Ints],
    *,
    collate: Callable[[Ints], Inputs],
    loss: Callable[[torch.nn.Module, Inputs], torch.Tensor],
    steps: OptimizerConfig,
    folder: Path,
    what: str,
    amounts: Ints | None = None,
    unit: str = "steps",
    clipped: Sequence[torch.nn.Module] | None = None,
) -> int:
    """Train a module in place, one step per batch, from the newest checkpoint in the folder if there is one.

    The batches are drawn beforehand and the random state is restored, so a run that was killed and called
    again ends in the same weights.

    Args:
        module: what is trained.
        batches: positions of the rows of each step.
        collate: positions to the inputs of a step.
        loss: the loss of a step.
        steps: how it is optimised.
        folder: for the checkpoints.
        what: the run in words, for the progress bar.
        amounts: (steps,) how much of `unit` each step is; default 1.
        unit: what progress is counted in.
        clipped: parts whose gradients are clipped to a norm of 1, each by itself; default the whole.

    Returns:
        How much of `unit` was left to do and is done now.
    """
    done = np.cumsum(np.ones(len(batches), dtype=np.int64) if amounts is None else amounts)
    arguments = Arguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        learning_rate=steps.learning_rate,
        warmup_steps=min(steps.warmup_ratio, 1 - 1e-9),
        lr_scheduler_type="linear",
        max_grad_norm=0.0,
        bf16=steps.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=steps.seed,
        save_strategy="steps",
        save_steps=max(FEWEST_STEPS_BETWEEN, len(batches) // CHECKPOINTS),
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    with progress_bar(what, int(done[-1]), unit) as show, _calm(), retain_malloc_arena():
        each = _EachStep(lambda step: show(int(done[step - 1])), clipped or [module])
        trainer = LossTrainer(
            model=module,
            args=arguments,
            train_dataset=_Batches(batches),
            data_collator=lambda several: collate(np.concatenate(several)),
            callbacks=[each],
        )
        trainer.loss = loss
        for noisy in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(noisy)
        trainer.train(resume_from_checkpoint=_last_whole(folder))
    return int(done[-1] - (done[each.first - 2] if each.first > 1 else 0)) if each.first else 0


def use_bf16(wanted: bool | None) -> bool:
    """Whether training multiplies in bfloat16: as wanted, else where the processor has it."""
    if wanted is not None:
        return wanted
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def use_eager_attention(model: PreTrainedModel) -> None:
    """On a processor, attend by plain matrix products: torch's fused kernel is slow backwards there."""
    if not torch.cuda.is_available():
        model.set_attn_implementation("eager")


def _last_whole(checkpoints: Path) -> str | None:
    """The newest checkpoint that was written to its end; a kill may have cut the writing of one short."""
    for folder in checkpoints.glob("checkpoint-*"):
        try:  # the state is what `Trainer` writes last
            json.loads((folder / "trainer_state.json").read_text("utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(folder)
    return get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None


class LossTrainer(Trainer):
    """The `Trainer` with a loss of our own."""

    loss: Callable[[torch.nn.Module, Inputs], torch.Tensor]

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The given loss."""
        value = self.loss(model, inputs)
        return (value, None) if return_outputs else value


class _Batches(Dataset[Ints]):
    """The batches in training order; one is one item."""

    def __init__(self, batches: Sequence[Ints]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, place: int) -> Ints:
        return self._batches[place]


class _EachStep(TrainerCallback):
    """Clip each part's gradients before a step; tell the progress bar after it."""

    def __init__(self, show: Callable[[int], None], clipped: Sequence[torch.nn.Module]) -> None:
        self._show, self._clipped = show, clipped
        self.first = 0

    def on_pre_optimizer_step(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        for part in self._clipped:
            torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.first = self.first or state.global_step
        self._show(state.global_step)


@contextlib.contextmanager
def _calm() -> Any:
    """Without the prints and the warnings of libraries about their own innards."""
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Numbers of glibc's `mallopt`; their usual values are below."""
USUAL = {TRIM_THRESHOLD: 128 * 1024, TOP_PAD: 128 * 1024, MMAP_MAX: 65_536}
KEEPING = {TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 * 1024 * 1024, MMAP_MAX: 0}


@contextlib.contextmanager
def retain_malloc_arena() -> Iterator[None]:
    """Let the C library keep large blocks that are freed, where it is glibc.

    Each step makes gradients as large as the token table anew; asking the system for fresh pages every time
    costs as much as a third of the step. At the end what is free goes back.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        yield
        return
    for name, value in KEEPING.items():
        library.mallopt(name, value)
    try:
        yield
    finally:
        for name, value in USUAL.items():
            library.mallopt(name, value)
        library.malloc_trim(0)


TABLE = "word_embeddings"
HIGHEST_PAD = 1000


@contextlib.contextmanager
def restrict_embeddings(module: nn.Module, rows: TokenizedTexts) -> Iterator[TokenizedTexts]:
    """Train with a token table of the tokens in the rows; at the end what it learned is in the whole one.

    A token that does not occur has a gradient of 0, and AdamW without weight decay leaves it alone. Weights
    come out as with the whole table, but for the order of the sums in the norm of the gradients.

    Args:
        module: a model with one table named `word_embeddings`; any other is left as it is.
        rows: all that it is trained on.

    Yields:
        The rows in the table's own numbers; those up to the padding token's keep theirs.
    """
    found = [name for name, part in module.named_modules() if name.rpartition(".")[2] == TABLE]
    whole = module.get_submodule(found[0]) if len(found) == 1 else None
    if not isinstance(whole, nn.Embedding) or not whole.weight.requires_grad or rows.pad_id > HIGHEST_PAD:
        yield rows
        return
    seen = np.union1d(np.arange(rows.pad_id + 1), rows.ids)
    where = torch.from_numpy(seen).to(whole.weight.device)
    part = nn.Embedding.from_pretrained(
        whole.weight.detach()[where], freeze=False, padding_idx=whole.padding_idx
    )
    module.set_submodule(found[0], part)
    yield replace(rows, ids=np.searchsorted(seen, rows.ids).astype(np.int32))
    module.set_submodule(found[0], whole)
    with torch.no_grad():
        whole.weight[where] = part.weight.to(whole.weight.device)
