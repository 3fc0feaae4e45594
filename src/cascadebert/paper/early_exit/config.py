"""Training options of the early-exit baselines: every default in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from cascadebert.errors import CascadeError
from cascadebert.paper.early_exit.exit_outputs import Reads
from cascadebert.training.config import FitConfig
from cascadebert.training.trainer import use_bf16


@dataclass(frozen=True)
class EarlyExitConfig:
    """Options of training a multi-exit or a truncated model; the shared ones are those of `FitConfig`.

    >>> EarlyExitConfig(exit_epochs=0)
    Traceback (most recent call last):
    cascadebert.errors.CascadeError: exit_epochs must be above 0, not 0
    """

    max_length: int = 128
    epochs: float | None = None  # passes in which the encoder learns; None: as published (3; PABEE 5)
    exit_epochs: float = 3.0  # of DeeBERT's second stage, in which only the exits learn
    batch_size: int = 32
    learning_rate: float = 2e-5
    exit_learning_rate: float | None = None  # of DeeBERT's second stage; None: the same, as published
    warmup_ratio: float = 0.0
    reads: Reads = "first"  # see `ExitHeads`
    bf16: bool | None = None
    seed: int = 1234

    def __post_init__(self) -> None:
        for name in ("exit_epochs", "exit_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise CascadeError(f"{name} must be above 0, not {value}")
        self.fit_config(1.0)

    def fit_config(self, published_epochs: float) -> FitConfig:
        """The options of ordinary fine-tuning. Raises CascadeError if one of them is out of range."""
        shared = {entry.name for entry in fields(FitConfig)} & {entry.name for entry in fields(self)}
        options = {name: getattr(self, name) for name in shared}
        if self.epochs is None:
            options["epochs"] = published_epochs
        return FitConfig(**options)

    def key(self) -> dict[str, object]:
        """All that decides the weights."""
        return {**asdict(self), "bf16": use_bf16(self.bf16)}
