"""The OpenVINO engine: runs a stage's `model.onnx` on x86 and ARM processors, without torch."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadebert.environment import cores, threads
from cascadebert.errors import StageError, extra
from cascadebert.inference.engines.base import TokenBatch, check_precision, engine_file
from cascadebert.inference.engines.int8 import no_layers, quantize_weights
from cascadebert.types import Logits

with extra("openvino"):
    import openvino
    from openvino import opset13 as operators

# OpenVINO's bindings prepare NumPy's types at the first use. Two threads that do so at once wait for each
# other forever: one for a lock that the other holds, the other for the interpreter's.
openvino.Type.f32.to_dtype()

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # of what does not run in int8
GROUP, LEAST_GROUP = 128, 32  # inputs that share a scale, in a row of inputs and in weights
LARGEST_WEIGHT = 127


def has_bfloat16() -> bool:
    """True if this processor multiplies in bfloat16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def has_int8() -> bool:
    """True if a layer of int8 weights multiplies in int8 on this processor.

    Elsewhere OpenVINO multiplies the weights' float32 values with unquantized inputs, which is no faster.
    """
    rows = np.linspace(-1, 1, 4 * GROUP, dtype=np.float32).reshape(4, GROUP) ** 3
    weights = np.linspace(1, -1, GROUP * GROUP, dtype=np.float32).reshape(GROUP, GROUP)
    given = operators.parameter([-1, 1, GROUP], np.float32)
    layer = operators.matmul(given, operators.constant(weights), False, False)
    model = openvino.Model([layer], [given])
    group = _quantize(model)
    values, scales = quantize_weights(weights, axis=0, largest=LARGEST_WEIGHT)
    exact = rows @ (values * scales)
    try:
        (found,) = openvino.compile_model(model, "CPU", _settings("int8", group))(rows[:, None]).values()
    except RuntimeError:
        return False
    return float(np.abs(found[:, 0] - exact).max()) > 1e-4 * float(np.abs(exact).max())


def precisions() -> tuple[str, ...]:
    """The precisions of this processor, the most exact first."""
    available = {"float32": True, "bfloat16": has_bfloat16(), "int8": has_int8()}
    return tuple(name for name in PRECISIONS if available[name])


def resolve_precision(precision: str) -> str:
    """The precision requested, or for "auto" bfloat16 where this processor has it, else float32.

    Raises StageError if the engine or the processor does not support it.
    """
    best = "bfloat16" if has_bfloat16() else "float32"
    if precision == "bfloat16" != best or (precision == "int8" and not has_int8()):
        raise StageError(
            f"openvino does not multiply in {precision} on this processor. Choose what is fastest here with "
            "`cascadebert tune --precision auto`, or ask for --precision float32."
        )
    return check_precision("openvino", precision, PRECISIONS, auto=best)


def _quantize(model: openvino.Model) -> int:
    """Replace the weights of layers by int8 values, with a scale for each output and group of inputs.

    Returns the size of the groups: 0 if there are no layers (which take hidden states of three axes); a model
    whose groups would be too small stays as it is.
    """
    layers = [node for node in model.get_ops() if _is_layer(node)]
    matrices = [_matrix(node) for node in layers]
    group = math.gcd(GROUP, *(matrix.shape[1] for matrix in matrices)) if layers else 0
    if group < LEAST_GROUP:
        return group
    for node, matrix in zip(layers, matrices, strict=True):
        groups = matrix.reshape(len(matrix), -1, group)
        values, scales = quantize_weights(groups, axis=2, largest=LARGEST_WEIGHT)
        floats = operators.convert(operators.constant(values), np.float32)
        product = operators.multiply(floats, operators.constant(scales))
        weights = operators.reshape(product, operators.constant(np.array(matrix.shape)), False)
        layer = operators.matmul(node.input_value(0), weights, False, True)
        node.output(0).replace(layer.output(0))
    return group


def _is_layer(node: Any) -> bool:
    """True for a product of hidden states with constant weights."""
    if node.get_type_name() != "MatMul" or node.input_value(0).get_partial_shape().rank.get_length() < 3:
        return False
    weights = node.input_value(1).get_node()
    return weights.get_type_name() == "Constant" and len(weights.get_output_shape(0)) == 2


def _matrix(node: Any) -> NDArray[np.float32]:
    """(outputs, inputs) weights of a layer."""
    weights = node.input_value(1).get_node().data
    return np.ascontiguousarray(weights if node.get_attributes()["transpose_b"] else weights.T)


def _settings(precision: str, group: int = 0) -> dict[str, str]:
    """Settings of a compiled model; inputs are quantized in groups, and not at all for 0."""
    limit = {} if threads() == cores() else {"INFERENCE_NUM_THREADS": str(threads())}
    return limit | {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group),
        "PERFORMANCE_HINT": "THROUGHPUT",  # several batches at a time
        "ENABLE_CPU_PINNING": "NO",  # otherwise two stages may share one core while another is idle
    }


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
        core, group = openvino.Core(), 0
        with engine_file(path, (RuntimeError,)) as file:
            source = core.read_model(file)
            if self.precision == "int8" and (group := _quantize(source)) < LEAST_GROUP:
                raise no_layers(path)
            model = core.compile_model(source, "CPU", _settings(self.precision, group))
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
