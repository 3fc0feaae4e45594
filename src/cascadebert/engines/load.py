"""Which engine runs a checkpoint; its library is imported only then."""

from __future__ import annotations

from pathlib import Path

from cascadebert.engines.base import Engine
from cascadebert.errors import StageError

ENGINES = ("torch",)


def load_engine(path: Path, *, engine: str, precision: str) -> Engine:
    """Load the model in a checkpoint folder.

    Args:
        path: a folder that plain `transformers` opens.
        engine: "torch", or "auto" for the best one installed.
        precision: "float32", "bfloat16", or "auto" for the engine's own choice.

    Raises:
        StageError: if the engine is unknown.
        MissingExtra: if its library is not installed.
    """
    if engine not in ("auto", *ENGINES):
        raise StageError(f"unknown engine {engine!r}; expected auto or {', '.join(ENGINES)}")
    from cascadebert.engines.torch import TorchEngine

    return TorchEngine(path, precision=precision)
