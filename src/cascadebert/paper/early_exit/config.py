"""How the baselines are trained: every default in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from cascadebert.errors import CascadeError
from cascadebert.paper.early_exit.exit_outputs import Reads
from cascadebert.training.config import FitConfig
from cascadebert.training.trainer import use_bf16


@dataclass(frozen=True)
class EarlyExitConfig:
    """How a model with exits, or one cut short, is trained.

    Attributes:
        max_length: longest row in tokens; longer texts are cut.
        epochs: passes over the rows with the encoder learning; fractions are allowed. None: as published (3;
            PABEE 5).
        exit_epochs: passes of DeeBERT's second stage, in which only the exits learn.
        batch_size: rows per step.
        learning_rate: of AdamW, falling linearly to 0.
        exit_learning_rate: of DeeBERT's second stage; None: the same, as published.
        warmup_ratio: share of the steps in which it rises linearly from 0.
        reads: what exits before the last look at; see `Exits`.
        bf16: matrix products of training in bfloat16; None asks the processor.
        seed: of everything random.

    >>> EarlyExitConfig(exit_epochs=0)
    Traceback (most recent call last):
    cascadebert.errors.CascadeError: exit_epochs must be above 0, not 0
    """

    max_length: int = 128
    epochs: float | None = None
    exit_epochs: float = 3.0
    batch_size: int = 32
    learning_rate: float = 2e-5
    exit_learning_rate: float | None = None
    warmup_ratio: float = 0.0
    reads: Reads = "first"
    bf16: bool | None = None
    seed: int = 1234

    def __post_init__(self) -> None:
        for name in ("exit_epochs", "exit_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise CascadeError(f"{name} must be above 0, not {value}")
        self.plain(1.0)

    def plain(self, published_epochs: float) -> FitConfig:
        """The same for a usual fine-tuning, which checks it."""
        return FitConfig(
            max_length=self.max_length,
            epochs=published_epochs if self.epochs is None else self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_ratio=self.warmup_ratio,
            bf16=self.bf16,
            seed=self.seed,
        )

    def key(self) -> dict[str, object]:
        """What decides the weights."""
        return {**asdict(self), "bf16": use_bf16(self.bf16)}
