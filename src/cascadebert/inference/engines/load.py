"""Loads the engine of a checkpoint, whose library is imported only then; and the kinds of stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from cascadebert.errors import StageError
from cascadebert.inference.engines.base import ENGINE_FILE, Engine
from cascadebert.inference.engines.static import MODEL_TYPE, StaticEngine
from cascadebert.persistence.checkpoint_config import read_config
from cascadebert.types import Flops

# from the fastest on a processor to the most general
ENGINES = {"openvino": "OpenVinoEngine", "onnxruntime": "OnnxRuntimeEngine", "torch": "TorchEngine"}


@dataclass(frozen=True)
class StageKind:
    """Seam for kinds of stages: loading, counting and training."""

    own_engine: Callable[[Path], Engine] | None = None  # None: runs on any of the engines
    known_flops: Callable[[int], Flops] | None = None  # of `num_labels`; None: counted by running the model
    recipe_overrides: Callable[[float], dict[str, Any]] = (
        lambda epochs: {}
    )  # in a FitConfig, given its epochs


# a further kind (such as a remote model) is one more `StageKind` here
TRANSFORMER = StageKind()
STATIC = StageKind(
    own_engine=StaticEngine,
    known_flops=lambda labels: Flops(row=2.0 * labels, token=2.0 * (labels + 1), pair=0.0),
    recipe_overrides=lambda epochs: {"epochs": max(epochs, 4.0), "learning_rate": 5e-3, "bf16": False},
)


def stage_kind(path: Path) -> StageKind:
    """The kind of the stage in a checkpoint folder. Raises StageError if its config.json is unreadable."""
    return STATIC if read_config(path).get("model_type") == MODEL_TYPE else TRANSFORMER


def resolve_engine(engine: str, precision: str) -> tuple[str, str]:
    """The engine and the precision that a request such as ("auto", "auto") stands for on this machine.

    "auto" is the first installed engine, but torch where it finds a CUDA device. Raises StageError if
    engine or precision is unknown or unavailable, MissingExtra if the engine's library is not installed.
    """
    if engine == "auto":
        has_torch = find_spec("torch") is not None and find_spec("transformers") is not None
        engine = "torch" if has_torch and _engine_module("torch").has_cuda() else _default_engine()
    return engine, str(_engine_module(engine).resolve_precision(precision))


def engine_options(engine: str, precision: str) -> list[tuple[str, str]]:
    """The engines and precisions that a request such as ("auto", "auto") leaves open on this machine.

    Those of one engine are ordered from the most exact to the least. "auto" stands for the installed engines
    that run a `model.onnx`, but for torch where it finds a CUDA device. Raises StageError if none is left,
    MissingExtra if the library of an engine requested by name is not installed.
    """
    first = resolve_engine(engine, "auto" if engine == "auto" else precision)[0]
    names = [name for name in ENGINES if name != "torch" and find_spec(name) is not None]
    if engine != "auto" or first == "torch":
        names = [first]
    if precision == "auto":
        return [(name, one) for name in names for one in _engine_module(name).precisions()]
    options = [(name, precision) for name in names if precision in _engine_module(name).precisions()]
    return options or [(first, str(_engine_module(first).resolve_precision(precision)))]


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
        engine = _default_engine() if (path / ENGINE_FILE).is_file() else "torch"
    loaded: Engine = getattr(_engine_module(engine), ENGINES[engine])(path, precision=precision)
    return loaded


def _default_engine() -> str:
    for engine in ENGINES:
        if find_spec(engine) is not None:
            return engine
    raise StageError("no engine is installed. Install one: pip install openvino, onnxruntime or torch")


def _engine_module(engine: str) -> ModuleType:
    if engine not in ENGINES:
        raise StageError(f"unknown engine {engine!r}; expected auto, {', '.join(ENGINES)}")
    return import_module(f"cascadebert.inference.engines.{engine}")
