"""The tower's sizes, its arithmetic, and the matrix products that it is made of."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE = 224  # pixels
EMBEDDING = 768


@dataclass(frozen=True)
class Shape:
    """A vision transformer's sizes; the outer ones are CLIP's."""

    patch: int = 14  # pixels
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_ratio: int = 4

    @property
    def patches(self) -> int:
        return (IMAGE // self.patch) ** 2

    @property
    def tokens(self) -> int:
        return self.patches + 1


@dataclass(frozen=True)
class Product:
    """`times` products of (groups) x (rows, inner) @ (inner, columns) for a batch of images."""

    name: str
    rows: int
    inner: int
    columns: int
    times: int
    groups: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.groups * self.rows * self.inner * self.columns * self.times


VIT_L_14 = Shape()
TINY = Shape(width=64, layers=2, heads=2)
SHAPES = {"vit-l-14": VIT_L_14, "tiny": TINY}


def products(shape: Shape, batch: int) -> tuple[Product, ...]:
    """Every matrix product of the tower for `batch` images."""
    rows, width, hidden = batch * shape.tokens, shape.width, shape.width * shape.mlp_ratio
    tokens, layers, head = shape.tokens, shape.layers, shape.width // shape.heads
    groups = batch * shape.heads
    return (
        Product("patches", batch * shape.patches, 3 * shape.patch**2, width, 1),
        Product("qkv", rows, width, 3 * width, layers),
        Product("scores", tokens, head, tokens, layers, groups),
        Product("values", tokens, tokens, head, layers, groups),
        Product("out", rows, width, width, layers),
        Product("fc1", rows, width, hidden, layers),
        Product("fc2", rows, hidden, width, layers),
        Product("projection", batch, width, EMBEDDING, 1),
    )


def flops_per_image(shape: Shape) -> int:
    """Multiplications and additions of the matrix products; 162.0e9 for ViT-L/14."""
    return sum(product.flops for product in products(shape, 1))


def flops_saved_by_class_token(shape: Shape) -> int:
    """What the last block need not compute where only its class token is read: 5.6e9 of ViT-L/14.

    Keys and values are of every token; queries, values' sums, output and MLP of one alone.
    """
    width, others = shape.width, shape.tokens - 1
    linears = 2 * others * width * (2 * width + 2 * shape.mlp_ratio * width)
    return linears + 2 * 2 * others * shape.tokens * width
