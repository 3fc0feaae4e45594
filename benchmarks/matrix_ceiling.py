"""How fast does an engine multiply large matrices on this machine? No model in it runs faster.

    python benchmarks/matrix_ceiling.py openvino bfloat16

Used by inference.py and shrink.py, which report what fraction of it models reach.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from cascadebert.timing import interleaved

SIZE, REPEATS = 2048, 5


def main() -> None:
    """Print the ceiling of an engine at a precision."""
    engine, precision = sys.argv[1:]
    print(f"{matrix_ceiling(engine, precision) / 1e9:,.0f} GFLOP/s")


def matrix_ceiling(engine: str, precision: str, *, repeats: int = REPEATS) -> float:
    """Floating-point operations per second of large matrix products, the best of the repeats."""
    products: dict[str, Callable[[str], tuple[Callable[[], object], int]]] = {
        "openvino": openvino_products,
        "onnxruntime": numpy_product,
        "torch": torch_product,
    }
    run, count = products[engine](precision)
    (seconds,) = interleaved([run], repeats=repeats)
    return count * 2 * SIZE**3 / min(seconds)


def openvino_products(precision: str) -> tuple[Callable[[], object], int]:
    """One product on each stream, compiled as the engine compiles models."""
    import openvino
    from openvino import opset13 as operations

    matrix = np.ones((SIZE, SIZE), dtype=np.float32)
    parameter = operations.parameter(matrix.shape, np.float32)
    product = operations.matmul(parameter, operations.constant(matrix), False, True)
    settings = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "PERFORMANCE_HINT": "THROUGHPUT",
        "ENABLE_CPU_PINNING": "NO",
    }
    model = openvino.Core().compile_model(openvino.Model([product], [parameter]), "CPU", settings)
    streams = int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    requests = [model.create_infer_request() for _ in range(streams)]

    def run() -> None:
        for request in requests:
            request.start_async({0: matrix}, share_inputs=True)
        for request in requests:
            request.wait()

    return run, streams


def numpy_product(precision: str) -> tuple[Callable[[], object], int]:
    """A float32 product of NumPy's own BLAS; ONNX Runtime has no product outside a model."""
    matrix = np.ones((SIZE, SIZE), dtype=np.float32)
    return lambda: matrix @ matrix, 1


def torch_product(precision: str) -> tuple[Callable[[], object], int]:
    """A product of torch, on the CUDA device where there is one."""
    import torch

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones(SIZE, SIZE, dtype=dtypes[precision], device=device)
    return lambda: (matrix @ matrix)[0, 0].item(), 1  # .item() waits for the device


if __name__ == "__main__":
    main()
