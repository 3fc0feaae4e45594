"""Linear layers in int8: weights with a scale per output, inputs with a scale per row.

The scale of a row follows from its own values, so a text's logits do not depend on its neighbors, as they do
where one scale serves a whole tensor (ONNX Runtime's own dynamic quantization).

A few columns of the inputs are far larger than the others, and would leave them few of the 255 steps. So
each is divided by a power of two, by which its weights are multiplied (SmoothQuant, Xiao et al. 2022, eq. 4).
How large it gets is measured on random tokens when the model is loaded, as it hardly depends on the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascadebert.errors import StageError, extra

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

Weights = NDArray[np.float32]
TOKENS = "input_ids"
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
# The largest weight. Without VNNI, x86 processors add two products of 8 bits in 16: 2 * 255 * 64 fits.
LARGEST_WEIGHT = 64
LARGEST_INPUT, ZERO_POINT = 127, 128
WIDEST = 768  # inputs of an output that share scales; wider layers are sums of narrower ones
MIGRATION = 0.25  # of the size of the inputs to the weights
TRIAL_ROWS, TRIAL_TOKENS = 8, 16  # on which the size is measured
LEAST = 1e-5  # size of a column


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


def column_scales(inputs: Weights, weights: Sequence[Weights]) -> Weights:
    """(width,) powers of two by which columns of the inputs are divided, and rows of the weights multiplied.

    `inputs` (width,) are the largest values of the columns; `weights` (width, outputs) are of all layers that
    read them.

    >>> column_scales(np.float32([1, 256]), [np.float32([[1], [1]])]).tolist()
    [0.5, 2.0]
    """
    largest = np.max([np.abs(layer).max(axis=1) for layer in weights], axis=0)
    powers = MIGRATION * np.log2(np.maximum(inputs, LEAST))
    powers -= (1 - MIGRATION) * np.log2(np.maximum(largest, LEAST))
    scales: Weights = np.exp2(np.rint(powers - powers.mean())).astype(np.float32)
    return scales


def quantize_onnx(path: Path) -> bytes:
    """A model file for ONNX Runtime whose linear layers multiply in int8.

    Those are the matrix products of hidden states with constant weights; the head, embeddings and attention
    stay as they are. Raises StageError if there are none, MissingExtra if `onnx` is not installed.
    """
    with extra("onnxruntime"):
        import onnx

    model = onnx.load(path)
    layers = _layers(onnx, model.graph)
    if not layers:
        raise no_layers(path)
    inputs = _largest_inputs(onnx, model, sorted({node.input[0] for node in layers}))
    _Quantizer(onnx, model.graph, layers, inputs).run()
    if MICROSOFT not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    return bytes(model.SerializeToString())


def _layers(onnx: Any, graph: GraphProto) -> list[NodeProto]:
    """Products of hidden states with a constant matrix."""
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in matrices]


def _largest_inputs(onnx: Any, model: Any, names: Sequence[str]) -> dict[str, Weights]:
    """(width,) largest absolute values of these inputs of layers on random tokens; none without tokens."""
    words = [
        tensor.dims[0]
        for node in model.graph.node
        for tensor in model.graph.initializer
        if node.op_type == "Gather" and node.input[1] == TOKENS and tensor.name == node.input[0]
    ]
    if not words:
        return {}
    with extra("onnxruntime"):
        from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    wanted = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL  # it runs once
    session = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    del model.graph.output[:]
    model.graph.output.extend(wanted)
    shape = TRIAL_ROWS, TRIAL_TOKENS
    batch = {port.name: np.zeros(shape, np.int64) for port in session.get_inputs()}
    batch[TOKENS] = np.random.default_rng(0).integers(words[0], size=shape)
    batch["attention_mask"] = np.ones(shape, np.int64)
    batch = {port.name: batch[port.name] for port in session.get_inputs()}
    found = session.run(None, batch)
    return {
        name: np.abs(rows.reshape(-1, rows.shape[-1])).max(axis=0)
        for name, rows in zip(names, found, strict=True)
    }


class _Quantizer:
    """Replaces matrix products in a graph; those of one input share its quantized rows."""

    def __init__(
        self, onnx: Any, graph: GraphProto, layers: Sequence[NodeProto], inputs: Mapping[str, Weights]
    ) -> None:
        self._onnx, self._graph, self._inputs = onnx, graph, inputs
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._layers = {node.output[0]: node for node in layers}
        self._nodes: list[NodeProto] = []
        self._groups: dict[
            str, list[str]
        ] = {}  # of inputs that are quantized already, the names of their parts
        self._scales: dict[str, Weights] = {}  # of their columns

    def run(self) -> None:
        """Rewrite the graph."""
        for node in self._graph.node:
            if node.output[0] in self._layers:
                self._replace(node.input[0], node.input[1], node.output[0])
            else:
                self._nodes.append(node)
        self._constant("int8/one", np.float32(1))
        self._constant("int8/step", np.float32(1 / LARGEST_INPUT))
        self._constant("int8/least", np.float32(1e-30))  # of the rows of zeros
        self._constant("int8/zero_point", np.uint8(ZERO_POINT))
        self._constant("int8/last_axis", np.array([1]))
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        self._drop_unused_weights()

    def _matrix(self, name: str) -> Weights:
        return np.asarray(self._onnx.numpy_helper.to_array(self._weights[name]), dtype=np.float32)

    def _replace(self, rows: str, weights: str, output: str) -> None:
        """(..., width) rows times (width, outputs) weights."""
        matrix = self._matrix(weights)
        if rows not in self._groups:
            self._quantize_rows(rows, len(matrix))
        parts = np.split(matrix * self._scales[rows][:, None], len(self._groups[rows]))
        products = []
        for number, (group, part) in enumerate(zip(self._groups[rows], parts, strict=True)):
            values, scales = quantize_weights(part, axis=0, largest=LARGEST_WEIGHT)
            name = f"{output}/{number}"
            self._constant(f"{name}/weights", values)
            self._constant(f"{name}/scales", scales[0])
            factors = [f"{group}/values", f"{name}/weights", "int8/one", f"{name}/scales", "int8/zero_point"]
            self._add("MatMulIntegerToFloat", *factors, to=f"{name}/product", domain=MICROSOFT)
            self._add("Mul", f"{name}/product", f"{group}/column", to=f"{name}/scaled")
            products.append(f"{name}/scaled")
        if len(products) > 1:
            self._add("Sum", *products, to=f"{output}/sum")
        self._constant(f"{output}/outputs", np.array([matrix.shape[1]]))
        self._add("Concat", f"{rows}/int8/shape", f"{output}/outputs", to=f"{output}/shape", axis=0)
        self._add("Reshape", f"{output}/sum" if products[1:] else products[0], f"{output}/shape", to=output)

    def _quantize_rows(self, rows: str, width: int) -> None:
        """Add the rows' shape, and their values and scales in groups of columns."""
        name, count = f"{rows}/int8", -(-width // WIDEST)
        while width % count:
            count += 1
        readers = [self._matrix(node.input[1]) for node in self._layers.values() if node.input[0] == rows]
        self._scales[rows], flat = np.ones(width, np.float32), f"{name}/flat"
        self._constant(f"{name}/width", np.array([-1, width]))
        self._add("Shape", rows, to=f"{name}/shape", end=-1)
        self._add("Reshape", rows, f"{name}/width", to=flat)
        if rows in self._inputs:
            self._scales[rows] = column_scales(self._inputs[rows], readers)
            self._constant(f"{name}/factors", 1 / self._scales[rows])
            self._add("Mul", flat, f"{name}/factors", to=f"{name}/even")
            flat = f"{name}/even"
        self._groups[rows] = [f"{name}/{number}" for number in range(count)]
        parts = [flat]
        if count > 1:
            parts = [f"{group}/rows" for group in self._groups[rows]]
            node = self._onnx.helper.make_node("Split", [flat], parts, name=f"{name}/split", axis=1)
            node.attribute.append(self._onnx.helper.make_attribute("num_outputs", count))
            self._nodes.append(node)
        for group, part in zip(self._groups[rows], parts, strict=True):
            self._quantize_group(group, part)

    def _quantize_group(self, name: str, rows: str) -> None:
        self._add("Abs", rows, to=f"{name}/sizes")
        self._add("ReduceMax", f"{name}/sizes", "int8/last_axis", to=f"{name}/most", keepdims=0)
        self._add("Max", f"{name}/most", "int8/least", to=f"{name}/largest")
        self._add("Mul", f"{name}/largest", "int8/step", to=f"{name}/scales")
        self._add("Shape", f"{name}/scales", to=f"{name}/count")
        self._add("Expand", "int8/zero_point", f"{name}/count", to=f"{name}/zeros")
        scaled = [rows, f"{name}/scales", f"{name}/zeros"]
        self._add("QuantizeLinear", *scaled, to=f"{name}/values", axis=0)
        self._add("Unsqueeze", f"{name}/scales", "int8/last_axis", to=f"{name}/column")

    def _add(self, operator: str, *inputs: str, to: str, **attributes: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(operator, list(inputs), [to], name=to, **attributes))

    def _constant(self, name: str, value: object) -> None:
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))

    def _drop_unused_weights(self) -> None:
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
