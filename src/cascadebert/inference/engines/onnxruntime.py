"""The ONNX Runtime engine: runs a stage's `model.onnx` on any processor, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cascadebert.environment import cores
from cascadebert.errors import extra
from cascadebert.inference.engines.base import TokenBatch, check_precision, engine_file
from cascadebert.types import Logits

with extra("onnxruntime"):
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

ERRORS = (ort.Fail, ort.InvalidGraph, ort.InvalidProtobuf, ort.NotImplemented, ort.RuntimeException)


def resolve_precision(precision: str) -> str:
    """Float32, the only precision of this engine. Raises StageError if another is requested."""
    note = " (its dynamic int8 makes a text's prediction depend on its neighbors)"
    return check_precision("onnxruntime", precision, ("float32",), auto="float32", note=note)


class OnnxRuntimeEngine:
    """A float32 session that runs one batch on each core."""

    name = "onnxruntime"
    device = "cpu"
    max_length: int | None = None

    def __init__(self, path: Path, *, precision: str = "auto") -> None:
        self.precision = resolve_precision(precision)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        with engine_file(path, ERRORS) as file:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.streams = cores()
        self._inputs = [port.name for port in self._session.get_inputs()]

    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) in float32."""
        (logits,) = self._session.run(None, {name: getattr(batch, name) for name in self._inputs})
        return np.asarray(logits, dtype=np.float32)
