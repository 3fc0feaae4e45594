"""The OpenVINO engine: a stage's `model.onnx` on a processor, without torch."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.base import (
    CEILING_REPEATS,
    CEILING_SIZE,
    ENGINE_FILE,
    TokenBatch,
    engine_file,
    model_feed,
)
from cascadebert.timing import interleaved
from cascadebert.types import Logits

with extra("openvino"):
    import openvino
    from openvino import opset13 as operations

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def resolve_precision(wanted: str) -> str:
    """The precision that is meant: as wanted, or for "auto" the fastest that this processor has.

    Raises:
        StageError: if the engine or the processor has it not.
    """
    if wanted == "auto":
        return "bfloat16" if has_bfloat16() else "float32"
    if wanted not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise StageError(f"the openvino engine has no precision {wanted!r}; expected auto, {known}")
    if wanted == "bfloat16" and not has_bfloat16():
        raise StageError("this processor does not multiply in bfloat16. Ask for --precision float32.")
    return wanted


class OpenVinoEngine:
    """A compiled model that runs a batch on each core.

    In bfloat16 a row's logits at its padded length are those it has alone, to the last bit, on models of
    real width; on models some dozen wide the last digit of the head's float32 sums may differ (1e-6).
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, path: Path, *, precision: str = "auto") -> None:
        self.precision = resolve_precision(precision)
        file, core = engine_file(path), openvino.Core()
        try:
            self._model = core.compile_model(core.read_model(file), "CPU", settings(self.precision))
        except RuntimeError as error:
            raise StageError(f"{path}: {ENGINE_FILE} cannot be run ({error})") from error
        self.streams = streams_of(self._model)
        self._names = [port.get_any_name() for port in self._model.inputs]
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.streams):
            self._free.put(self._model.create_infer_request())

    def logits(self, batch: TokenBatch) -> Logits:
        """(rows, num_labels), in float32."""
        request = self._free.get()
        try:
            answer = request.infer(model_feed(batch, self._names), share_inputs=True)
            return np.array(answer[0], dtype=np.float32)
        finally:
            self._free.put(request)


ENGINE = OpenVinoEngine


def matrix_ceiling(precision: str) -> float:
    """Floating-point operations per second of large matrix products, one on each stream, the best of some."""
    one = np.ones((CEILING_SIZE, CEILING_SIZE), dtype=np.float32)
    given = operations.parameter(one.shape, np.float32)
    product = openvino.Model([operations.matmul(given, operations.constant(one), False, True)], [given])
    model = openvino.Core().compile_model(product, "CPU", settings(precision))
    requests = [model.create_infer_request() for _ in range(streams_of(model))]

    def run() -> None:
        for request in requests:
            request.start_async({0: one}, share_inputs=True)
        for request in requests:
            request.wait()

    (seconds,) = interleaved([run], repeats=CEILING_REPEATS)
    return float(len(requests) * 2 * CEILING_SIZE**3 / min(seconds))


def settings(precision: str) -> dict[str, str]:
    """How a model is compiled: many batches at a time."""
    return {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "PERFORMANCE_HINT": "THROUGHPUT",
        "ENABLE_CPU_PINNING": "NO",  # else batches of two stages may be bound to one core while another rests
    }


def streams_of(model: Any) -> int:
    """Batches that a compiled model runs best at the same time."""
    return int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
