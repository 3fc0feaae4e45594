"""Selects and loads the engine of a checkpoint; the engine's library is imported only then."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from cascadebert.errors import StageError
from cascadebert.inference.engines.base import ENGINE_FILE, Engine
from cascadebert.inference.stage_kind import stage_kind

ENGINES = ("openvino", "onnxruntime", "torch")  # from the fastest on a processor to the most general


def resolve_engine(engine: str, precision: str) -> tuple[str, str]:
    """The engine and the precision that a request such as ("auto", "auto") stands for on this machine.

    "auto" is the first installed engine, but torch where it finds a CUDA device. Raises StageError if
    engine or precision is unknown or unavailable, MissingExtra if the engine's library is not installed.
    """
    if engine == "auto":
        has_torch = find_spec("torch") is not None and find_spec("transformers") is not None
        engine = "torch" if has_torch and _engine_module("torch").has_cuda() else default_engine()
    return engine, str(_engine_module(engine).resolve_precision(precision))


def default_engine() -> str:
    """The first of the engines whose library is installed. Raises StageError if there is none."""
    for engine in ENGINES:
        if find_spec(engine) is not None:
            return engine
    raise StageError("no engine is installed. Install one: pip install openvino, onnxruntime or torch")


def load_engine(path: Path, *, engine: str, precision: str) -> Engine:
    """Load the model in a checkpoint folder.

    "auto" is the first installed engine where the folder has a `model.onnx`, else torch; the precision
    "auto" is the engine's own choice. A static stage has its own engine. Raises StageError if the engine is
    unknown, lacks the precision or its file, MissingExtra if its library is not installed.
    """
    own_engine = stage_kind(path).own_engine
    if own_engine is not None:
        return own_engine(path)
    if engine == "auto":
        engine = default_engine() if (path / ENGINE_FILE).is_file() else "torch"
    loaded: Engine = _engine_module(engine).ENGINE(path, precision=precision)
    return loaded


def _engine_module(engine: str) -> ModuleType:
    if engine not in ENGINES:
        raise StageError(f"unknown engine {engine!r}; expected auto, {', '.join(ENGINES)}")
    return import_module(f"cascadebert.inference.engines.{engine}")
