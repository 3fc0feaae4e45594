"""Linear layers in int8: weights with a scale per output, inputs with a scale per row.

The scale of a row follows from its own values, so a text's logits do not depend on its neighbors, as they do
where one scale serves a whole tensor (ONNX Runtime's own dynamic quantization).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascadebert.errors import StageError, extra

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

Weights = NDArray[np.float32]
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
# The largest weight. Without VNNI, x86 processors add two products of 8 bits in 16: 2 * 255 * 64 fits.
LARGEST_WEIGHT = 64
LARGEST_INPUT, ZERO_POINT = 127, 128


def quantize_weights(weights: Weights, *, axis: int, largest: int) -> tuple[NDArray[np.int8], Weights]:
    """Integers up to `largest`, and their scales: one for each slice along `axis`, which keeps length 1.

    >>> values, scales = quantize_weights(np.float32([[1, 10], [-2, 5]]), axis=0, largest=64)
    >>> values.tolist(), scales.tolist()
    ([[32, 64], [-64, 32]], [[0.03125, 0.15625]])
    """
    scales = np.abs(weights).max(axis=axis, keepdims=True) / np.float32(largest)
    scales[scales == 0] = 1
    return np.rint(weights / scales).astype(np.int8), scales


def no_layers(path: Path) -> StageError:
    """The error for a model none of whose layers is quantized."""
    return StageError(f"{path}: it has no linear layers that run in int8. Use --precision float32.")


def quantize_onnx(path: Path) -> bytes:
    """A model file for ONNX Runtime whose linear layers multiply in int8.

    Those are the matrix products of hidden states with constant weights; the head, embeddings and attention
    stay as they are. Raises StageError if there are none, MissingExtra if `onnx` is not installed.
    """
    with extra("onnxruntime"):
        import onnx

    model = onnx.load(path)
    if not _Quantizer(onnx, model.graph).run():
        raise no_layers(path)
    if MICROSOFT not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    return bytes(model.SerializeToString())


class _Quantizer:
    """Replaces matrix products in a graph; those of one input share its quantized rows."""

    def __init__(self, onnx: Any, graph: GraphProto) -> None:
        self._onnx, self._graph = onnx, graph
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: list[NodeProto] = []
        self._rows: set[str] = set()  # inputs that are quantized already

    def run(self) -> bool:
        """Rewrite the graph; False if it has nothing to quantize."""
        for node in self._graph.node:
            is_layer = node.op_type == "MatMul" and len(self._dims(node.input[1])) == 2
            if is_layer:
                self._replace(node.input[0], node.input[1], node.output[0])
            else:
                self._nodes.append(node)
        if not self._rows:
            return False
        self._constant("int8/one", np.float32(1))
        self._constant("int8/step", np.float32(1 / LARGEST_INPUT))
        self._constant("int8/least", np.float32(1e-30))  # of the rows of zeros
        self._constant("int8/zero_point", np.uint8(ZERO_POINT))
        self._constant("int8/last_axis", np.array([1]))
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        self._drop_unused_weights()
        return True

    def _replace(self, rows: str, weights: str, output: str) -> None:
        """(..., width) rows times (width, outputs) weights."""
        matrix = self._onnx.numpy_helper.to_array(self._weights[weights])
        width, outputs = matrix.shape
        values, scales = quantize_weights(matrix.astype(np.float32), axis=0, largest=LARGEST_WEIGHT)
        self._constant(f"{output}/weights", values)
        self._constant(f"{output}/scales", scales[0])
        self._constant(f"{output}/outputs", np.array([outputs]))
        quantized = self._quantize_rows(rows, width)
        factors = [f"{quantized}/values", f"{output}/weights", "int8/one", f"{output}/scales"]
        self._add(
            "MatMulIntegerToFloat", *factors, "int8/zero_point", to=f"{output}/product", domain=MICROSOFT
        )
        self._add("Mul", f"{output}/product", f"{quantized}/column", to=f"{output}/scaled")
        self._add("Concat", f"{quantized}/shape", f"{output}/outputs", to=f"{output}/shape", axis=0)
        self._add("Reshape", f"{output}/scaled", f"{output}/shape", to=output)

    def _quantize_rows(self, rows: str, width: int) -> str:
        """Add the rows' values, scales and shape to the graph, and return the prefix of their names."""
        name = f"{rows}/int8"
        if rows in self._rows:
            return name
        self._rows.add(rows)
        self._constant(f"{name}/flat", np.array([-1, width]))
        self._add("Shape", rows, to=f"{name}/shape", end=-1)
        self._add("Reshape", rows, f"{name}/flat", to=f"{name}/rows")
        self._add("Abs", f"{name}/rows", to=f"{name}/sizes")
        self._add("ReduceMax", f"{name}/sizes", "int8/last_axis", to=f"{name}/most", keepdims=0)
        self._add("Max", f"{name}/most", "int8/least", to=f"{name}/largest")
        self._add("Mul", f"{name}/largest", "int8/step", to=f"{name}/scales")
        self._add("Shape", f"{name}/scales", to=f"{name}/count")
        self._add("Expand", "int8/zero_point", f"{name}/count", to=f"{name}/zeros")
        scaled = [f"{name}/rows", f"{name}/scales", f"{name}/zeros"]
        self._add("QuantizeLinear", *scaled, to=f"{name}/values", axis=0)
        self._add("Unsqueeze", f"{name}/scales", "int8/last_axis", to=f"{name}/column")
        return name

    def _add(self, operator: str, *inputs: str, to: str, **attributes: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(operator, list(inputs), [to], name=to, **attributes))

    def _constant(self, name: str, value: object) -> None:
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))

    def _dims(self, name: str) -> list[int]:
        return list(self._weights[name].dims) if name in self._weights else []

    def _drop_unused_weights(self) -> None:
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
