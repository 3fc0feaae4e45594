"""The ONNX Runtime engine: runs a stage's `model.onnx` on any processor, without torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cascadebert.environment import threads
from cascadebert.errors import extra
from cascadebert.inference.engines.base import TokenBatch, check_precision, engine_file
from cascadebert.inference.engines.int8 import quantize_onnx
from cascadebert.types import Logits

with extra("onnxruntime"):
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

ERRORS = (ort.Fail, ort.InvalidGraph, ort.InvalidProtobuf, ort.NotImplemented, ort.RuntimeException)

PRECISIONS = ("float32", "int8")
SLOWER = ["SkipLayerNormFusion"]  # its kernel takes longer than those that it replaces


def precisions() -> tuple[str, ...]:
    """The precisions that can be used here, the most exact first: int8 needs the package `onnx`."""
    return PRECISIONS if find_spec("onnx") is not None else PRECISIONS[:1]


def resolve_precision(precision: str) -> str:
    """The precision requested, float32 for "auto". Raises StageError if the engine does not support it."""
    return check_precision("onnxruntime", precision, PRECISIONS, auto="float32")


class OnnxRuntimeEngine:
    """A session that runs one batch on each core.

    Its int8 is quantized as the model is loaded (`quantize_onnx`), and runs on any processor.
    """

    name = "onnxruntime"
    device = "cpu"
    max_length: int | None = None

    def __init__(self, path: Path, *, precision: str = "auto") -> None:
        self.precision = resolve_precision(precision)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        with engine_file(path, ERRORS) as file:
            model = file if self.precision == "float32" else quantize_onnx(file)
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER
            )
        self.streams = threads()
        self._inputs = [port.name for port in self._session.get_inputs()]

    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) in float32."""
        (logits,) = self._session.run(None, {name: getattr(batch, name) for name in self._inputs})
        return np.asarray(logits, dtype=np.float32)
