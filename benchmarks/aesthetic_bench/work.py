"""What an image costs: the tower's matrix products, from the one place that counts them."""

from __future__ import annotations

import sys
from pathlib import Path

# A folder of its own: the GPU benchmark runs where nothing of this project is installed.
sys.path.append(str(Path(__file__).resolve().parents[1] / "gpu"))

from gpu_bench.shapes import (
    Product,
    Shape,
    flops_per_image,
    flops_saved_by_class_token,
    products,
)

__all__ = ["Product", "Shape", "gflop_per_image", "linear_products"]


def gflop_per_image(shape: Shape, *, class_token_only: bool = False) -> float:
    """162.0 for ViT-L/14; 156.4 where the last block is computed for the class token alone."""
    saved = flops_saved_by_class_token(shape) if class_token_only else 0
    return (flops_per_image(shape) - saved) / 1e9


def linear_products(shape: Shape, batch: int) -> tuple[Product, ...]:
    """The products with weights that every layer has: 95% of the tower's arithmetic."""
    layered = ("qkv", "out", "fc1", "fc2")
    return tuple(product for product in products(shape, batch) if product.name in layered)
