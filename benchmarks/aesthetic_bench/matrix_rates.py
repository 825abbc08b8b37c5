"""The machine's limit: how fast it multiplies matrices of the tower's shapes, by number type."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .work import Product, Shape, linear_products

PRECISIONS = ("fp32", "bf16", "int8")
BATCH = 8  # images, whose tokens are the rows of a product
SCALE = 0.02  # of the quantised numbers; its value does not change the time

Multiply = Callable[[], object]  # one product
Maker = Callable[[str, Product], Multiply]


class MatrixRates:
    """Every layer's four products with weights, by each library that is installed."""

    def __init__(self, shape: Shape) -> None:
        self._products = linear_products(shape, BATCH)
        self._makers: dict[str, Maker] = {"torch": _torch}
        try:
            import openvino
        except ImportError:
            return
        self._makers["openvino"] = partial(_openvino, openvino.Core())

    def measure(self, seconds: float) -> dict[str, dict[str, float]]:
        """GFLOP/s by precision and library, over a layer; `seconds` for each of them.

        Nothing is kept in between: matrices that wait would take others' memory.
        """
        return {
            precision: {
                library: self._rate([make(precision, p) for p in self._products], seconds)
                for library, make in self._makers.items()
            }
            for precision in PRECISIONS
        }

    def _rate(self, ways: Sequence[Multiply], seconds: float) -> float:
        flops = sum(product.flops / product.times for product in self._products)
        for multiply in ways:  # the first run allocates
            multiply()
        layers, begin = 0, time.perf_counter()
        while layers < 2 or time.perf_counter() - begin < seconds:
            for multiply in ways:
                multiply()
            layers += 1
        return flops * layers / (time.perf_counter() - begin) / 1e9


def _torch(precision: str, product: Product) -> Multiply:
    """oneDNN's or MKL's product, as torch.nn.Linear calls it; int8 to int32 sums."""
    import torch

    rows, inner, columns = product.rows, product.inner, product.columns
    if precision == "int8":
        left = torch.randint(-127, 128, (rows, inner), dtype=torch.int8)
        right = torch.randint(-127, 128, (columns, inner), dtype=torch.int8).t()
        return lambda: torch._int_mm(left, right)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    values = torch.randn(rows, inner, dtype=dtype)
    weight = torch.randn(columns, inner, dtype=dtype)
    return lambda: torch.nn.functional.linear(values, weight)


def _openvino(core: Any, precision: str, product: Product) -> Multiply:
    """A MatMul with constant weights; int8 quantises its input first, as an int8 tower does."""
    from openvino import Model, Tensor
    from openvino import opset13 as op

    values = op.parameter([product.rows, product.inner], np.float32)
    random = np.random.default_rng(0)
    given: Any = values
    if precision == "int8":
        low, high = (op.constant(np.float32(end * SCALE)) for end in (-128, 127))
        given = op.fake_quantize(values, low, high, low, high, 256)
        whole = random.integers(-127, 128, (product.columns, product.inner), dtype=np.int8)
        weight = op.multiply(op.convert(op.constant(whole), np.float32), np.float32(SCALE))
    else:
        shape = (product.columns, product.inner)
        weight = op.constant(random.standard_normal(shape, dtype=np.float32))
    model = Model([op.result(op.matmul(given, weight, False, True))], [values], "product")
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        },
    )
    request = compiled.create_infer_request()
    numbers = random.standard_normal((product.rows, product.inner), dtype=np.float32)
    fed = {0: Tensor(numbers, shared_memory=True)}
    return lambda: request.infer(fed)
