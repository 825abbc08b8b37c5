"""Scores with their gradients to the pixels: forward and backward pass as one network.

The backward pass is written out, so that the ordinary exporter takes it and every engine runs it as
any other network. It is the chain rule over what the tower computes (Radford et al., "Learning
Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020); gradient_parts.py
has that of each part. Weights get no gradients. Matrices are multiplied as they are or transposed
by the product itself (`transB` of ONNX's Gemm), so that each is stored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from aesthetic_client.pixels import CLIP_MEAN, CLIP_STD
from aesthetic_export.gradient_parts import (
    Attention,
    ClassAttention,
    Mlp,
    Norm,
    heads_with_gradient,
    linear,
    product_sum,
)
from aesthetic_export.heads import HeadWeights
from aesthetic_export.modules import AestheticHeads
from aesthetic_export.towers import check_quick_gelu

NORM_FLOOR = 1e-12  # of torch's F.normalize


class AestheticGradient(nn.Module):
    """Images to scores, their gradients and embeddings, in fp32 and without autograd.

    In: float_pixels (N, 3, 224, 224) RGB in [0, 1], head_weights (N, 5) in the order of `heads`,
    direction (N, 768). Out: score (N, 1), pixel_gradient (N, 3, 224, 224), embedding (N, 768) of
    length 1. score = sum of head_weights * heads(embedding) + direction . embedding, row by row;
    pixel_gradient is its derivative. `tower` is open_clip's vision transformer (towers.py), whose
    weights are shared.
    Raises ActivationError for a tower without QuickGELU, InputError for other heads.
    """

    mean: torch.Tensor
    std: torch.Tensor
    projection: torch.Tensor

    def __init__(self, tower: Any, heads: Sequence[HeadWeights]) -> None:
        super().__init__()
        check_quick_gelu(tower)
        for name, values in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
        self.embed = Patches(tower)
        *blocks, last = tower.transformer.resblocks
        self.blocks = nn.ModuleList(Block(block) for block in blocks)
        self.last = LastBlock(last, self.embed.tokens)
        self.ln_post = Norm(tower.ln_post)
        self.register_buffer("projection", tower.proj.detach())  # (width, 768)
        self.heads = AestheticHeads(heads)
        self.eval().requires_grad_(False)

    def forward(
        self, float_pixels: torch.Tensor, head_weights: torch.Tensor, direction: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        stream, embedded = self.embed((float_pixels - self.mean) / self.std)
        kept = []
        for block in self.blocks:
            stream, of_block = block(stream, self.embed.tokens)
            kept.append(of_block)
        classes, of_last = self.last(stream)
        normed, of_post = self.ln_post(classes)
        features = normed @ self.projection
        length = product_sum(features, features).sqrt().clamp_min(NORM_FLOOR)
        embedding = features / length

        scores, slope = heads_with_gradient(self.heads, embedding, head_weights)
        score = scores + product_sum(embedding, direction)
        slope = slope + direction

        # The part along the embedding would change its length only.
        grad = (slope - embedding * product_sum(embedding, slope)) / length
        grad = self.ln_post.backward(linear(grad, self.projection), of_post)
        grad = self.last.backward(grad, of_last)
        for block, of_block in zip(reversed(self.blocks), reversed(kept), strict=True):
            assert isinstance(block, Block)
            grad = block.backward(grad, of_block)
        return score, self.embed.backward(grad, embedded) / self.std, embedding


class Patches(nn.Module):
    """(N, 3, 224, 224) -> the residual stream (N * tokens, width): class token, then patches.

    A convolution whose stride is its size is a product with patches laid out as rows.
    """

    weight: torch.Tensor
    first: torch.Tensor
    positions: torch.Tensor

    def __init__(self, tower: Any) -> None:
        super().__init__()
        kernel = tower.conv1.weight.detach()
        self.patch = int(kernel.shape[-1])
        self.register_buffer("weight", kernel.flatten(1))  # (width, 3 * patch * patch)
        positions = tower.positional_embedding.detach()
        self.tokens, self.width = positions.shape
        self.grid = round((self.tokens - 1) ** 0.5)
        # Both are added to the class token; here they are one.
        self.register_buffer(
            "first", (tower.class_embedding.detach() + positions[0]).view(1, 1, -1)
        )
        self.register_buffer("positions", positions[1:])
        self.ln_pre = Norm(tower.ln_pre)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, Any]:
        split = image.reshape(-1, 3, self.grid, self.patch, self.grid, self.patch)
        rows = split.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3 * self.patch**2)
        patches = linear(rows, self.weight).view(-1, self.tokens - 1, self.width) + self.positions
        classes = self.first.expand(image.shape[0], 1, self.width)
        stream = torch.cat([classes, patches], dim=1).view(-1, self.width)
        normed: tuple[torch.Tensor, Any] = self.ln_pre(stream)
        return normed

    def backward(self, grad: torch.Tensor, kept: Any) -> torch.Tensor:
        grad = self.ln_pre.backward(grad, kept).view(-1, self.tokens, self.width)
        rows = grad[:, 1:].reshape(-1, self.width) @ self.weight
        split = rows.view(-1, self.grid, self.grid, 3, self.patch, self.patch)
        side = self.grid * self.patch
        return split.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, side, side)


class Block(nn.Module):
    """Residual stream (N * tokens, width) -> the same."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(block), Mlp(block)

    def forward(self, stream: torch.Tensor, tokens: int) -> tuple[torch.Tensor, Any]:
        change, attended = self.attention(stream, tokens)
        stream = stream + change
        change, mapped = self.mlp(stream)
        return stream + change, (attended, mapped)

    def backward(self, grad: torch.Tensor, kept: Any) -> torch.Tensor:
        attended, mapped = kept
        grad = grad + self.mlp.backward(grad, mapped)
        result: torch.Tensor = grad + self.attention.backward(grad, attended)
        return result


class LastBlock(nn.Module):
    """Residual stream (N * tokens, width) -> the class tokens' (N, width).

    Nothing after it looks at other tokens, so they are keys and values here, and nothing else.
    """

    def __init__(self, block: Any, tokens: int) -> None:
        super().__init__()
        self.attention, self.mlp = ClassAttention(block, tokens), Mlp(block)
        self.tokens = tokens

    def forward(self, stream: torch.Tensor) -> tuple[torch.Tensor, Any]:
        change, attended = self.attention(stream)
        classes = stream.view(-1, self.tokens, stream.shape[1])[:, 0] + change
        change, mapped = self.mlp(classes)
        return classes + change, (attended, mapped)

    def backward(self, grad: torch.Tensor, kept: Any) -> torch.Tensor:
        attended, mapped = kept
        grad = grad + self.mlp.backward(grad, mapped)
        return self.attention.backward(grad, attended)
