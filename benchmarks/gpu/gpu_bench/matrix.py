"""The attainable fp16 rate: the tower's own matrix products alone, by the library that torch has.

What a whole tower can reach at most: everything else that it does comes on top.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from gpu_bench.shapes import Product, Shape, products
from gpu_bench.timing import measure


def matrix_rates(
    shape: Shape, batch: int, device: torch.device, dtype: torch.dtype, seconds: float
) -> dict[str, Any]:
    """TFLOP/s of each product, and of all in the proportion in which the tower needs them.

    The two of attention are left out of the whole: fused attention never writes what lies between
    them, so that a product on its own says little.
    """
    rows, total_s, total_flops = [], 0.0, 0
    for product in products(shape, batch):
        left, right = _operands(product, device, dtype)
        times = measure(partial(torch.matmul, left, right), device, seconds)
        each = product.flops / product.times
        fused = product.groups > 1
        rows.append(
            {
                "product": product.name,
                "groups": product.groups,
                "rows": product.rows,
                "inner": product.inner,
                "columns": product.columns,
                "times_an_image_batch": product.times,
                "tflops": each / times.p50_ms / 1e9,
                "p50_ms": times.p50_ms,
                "counted": not fused,
            }
        )
        if not fused:
            total_s += times.p50_ms / 1e3 * product.times
            total_flops += product.flops
    return {"batch": batch, "tflops": total_flops / total_s / 1e12, "products": rows}


def _operands(
    product: Product, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random numbers: zeros run faster than anything real does."""
    groups = () if product.groups == 1 else (product.groups,)
    left = torch.randn(*groups, product.rows, product.inner, device=device, dtype=dtype)
    right = torch.randn(*groups, product.inner, product.columns, device=device, dtype=dtype)
    return left, right
