"""The ONNX Runtime engine: a stage's `model.onnx` anywhere, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cascadebert.environment import cores
from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.base import ENGINE_FILE, TokenBatch, blas_ceiling, engine_file, model_feed
from cascadebert.types import Logits

with extra("onnxruntime"):
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as faults

FAULTS = (
    faults.Fail,
    faults.InvalidGraph,
    faults.InvalidProtobuf,
    faults.NotImplemented,
    faults.RuntimeException,
)


def resolve_precision(wanted: str) -> str:
    """The precision that is meant.

    Raises:
        StageError: if it is another than float32.
    """
    if wanted in ("auto", "float32"):
        return "float32"
    raise StageError(
        f"the onnxruntime engine has no precision {wanted!r}; expected auto, float32 (its dynamic int8 makes "
        "a row's answer depend on its neighbours)"
    )


class OnnxRuntimeEngine:
    """A session in float32 that runs a batch on each core."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, path: Path, *, precision: str = "auto") -> None:
        self.precision = resolve_precision(precision)
        file, options = engine_file(path), onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except FAULTS as error:
            raise StageError(f"{path}: {ENGINE_FILE} cannot be run ({error})") from error
        self.streams = cores()
        self._names = [one.name for one in self._session.get_inputs()]

    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels), in float32."""
        (answer,) = self._session.run(None, model_feed(batch, self._names))
        return np.asarray(answer, dtype=np.float32)


ENGINE = OnnxRuntimeEngine
matrix_ceiling = blas_ceiling
