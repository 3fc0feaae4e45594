"""The OpenVINO engine: runs a stage's `model.onnx` on x86 and ARM processors, without torch."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.base import TokenBatch, check_precision, engine_file
from cascadebert.types import Logits

with extra("openvino"):
    import openvino

# OpenVINO's bindings prepare NumPy's types at the first use. Two threads that do so at once wait for each
# other forever: one for a lock that the other holds, the other for the interpreter's.
openvino.Type.f32.to_dtype()

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def has_bfloat16() -> bool:
    """True if this processor multiplies in bfloat16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def resolve_precision(precision: str) -> str:
    """The precision requested, or for "auto" the fastest that this processor has.

    Raises StageError if the engine or the processor does not support it.
    """
    best = "bfloat16" if has_bfloat16() else "float32"
    if precision == "bfloat16" != best:
        raise StageError("this processor does not multiply in bfloat16. Ask for --precision float32.")
    return check_precision("openvino", precision, PRECISIONS, auto=best)


class OpenVinoEngine:
    """A compiled model that runs one batch on each core.

    In bfloat16 a text's logits equal those it has alone, to the last bit, on models of practical width; on
    models of some dozen units the last digit of the head's float32 sums may differ (1e-6).
    """

    name = "openvino"
    device = "cpu"
    max_length: int | None = None

    def __init__(self, path: Path, *, precision: str = "auto") -> None:
        self.precision = resolve_precision(precision)
        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.precision],
            "PERFORMANCE_HINT": "THROUGHPUT",  # several batches at a time
            "ENABLE_CPU_PINNING": "NO",  # otherwise two stages may share one core while another is idle
        }
        with engine_file(path, (RuntimeError,)) as file:
            model = core.compile_model(core.read_model(file), "CPU", settings)
        self.streams = int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._inputs = [port.get_any_name() for port in model.inputs]
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.streams):
            self._idle.put(model.create_infer_request())

    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels) in float32."""
        request = self._idle.get()
        try:
            outputs = request.infer({name: getattr(batch, name) for name in self._inputs}, share_inputs=True)
            return np.array(outputs[0], dtype=np.float32)
        finally:
            self._idle.put(request)
