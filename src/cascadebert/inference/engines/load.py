"""Which engine runs a checkpoint; its library is imported only then."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from cascadebert.errors import StageError
from cascadebert.inference.engines.base import ENGINE_FILE, Engine
from cascadebert.inference.stage_kind import stage_kind
from cascadebert.types import Texts

ENGINES = ("openvino", "onnxruntime", "torch")
"""From the fastest on a processor to the most general."""


def default_engine() -> str:
    """The first of the engines whose library is installed.

    Raises:
        StageError: if none is.
    """
    for name in ENGINES:
        if find_spec(name) is not None:
            return name
    raise StageError("no engine is installed. Install one: pip install openvino, onnxruntime or torch")


def resolve_engine(engine: str, precision: str) -> tuple[str, str]:
    """The engine and the precision that are meant by what was asked for on this machine.

    Raises:
        StageError: if either is unknown or cannot be had here.
        MissingExtra: if the engine's library is not installed.
    """
    name = _fastest() if engine == "auto" else engine
    return name, str(_room(name).resolve_precision(precision))


def _fastest() -> str:
    """The first engine that is installed, but torch where it finds a CUDA device."""
    if find_spec("torch") is not None and find_spec("transformers") is not None and _room("torch").has_cuda():
        return "torch"
    return default_engine()


def load_engine(path: Path, *, engine: str, precision: str) -> Engine:
    """Load the model in a checkpoint folder.

    Args:
        path: a folder that plain `transformers` opens; engines without torch need its `model.onnx` too.
        engine: "openvino", "onnxruntime", "torch", or "auto": the first of them that is installed where the
            folder has a `model.onnx`, else torch. A static stage has its own.
        precision: "float32", "bfloat16", or "auto" for the engine's own choice.

    Raises:
        StageError: if the engine is unknown, has not this precision, or its file is missing.
        MissingExtra: if its library is not installed.
    """
    own_engine = stage_kind(path).own_engine
    if own_engine is not None:
        return own_engine(path)
    if engine == "auto":
        engine = default_engine() if (path / ENGINE_FILE).is_file() else "torch"
    room = _room(engine)
    loaded: Engine = room.ENGINE(path, precision=precision)
    return loaded


def matrix_ceiling(engine: Engine) -> float:
    """Floating-point operations per second of large matrix products in an engine, at its precision."""
    return float(_room(engine.name).matrix_ceiling(engine.precision))


def load_pipeline(path: Path, *, max_length: int) -> Callable[[Texts, int], list[int]] | None:
    """The `transformers` pipeline of a checkpoint, to compare with; None where it cannot be had.

    Args:
        path: the checkpoint folder.
        max_length: longest row in tokens.
    """
    if find_spec("torch") is None or find_spec("transformers") is None:
        return None
    from cascadebert.inference.engines.transformers_pipeline import Pipeline

    return Pipeline(path, max_length=max_length)


def _room(engine: str) -> ModuleType:
    if engine not in ENGINES:
        raise StageError(f"unknown engine {engine!r}; expected auto, {', '.join(ENGINES)}")
    return import_module(f"cascadebert.inference.engines.{engine}")
