"""The image tower in fp16, cast here and by hand: which number has which type is written out.

fp16 holds at most 65504 and 11 bits. What could exceed the one or needs more of the other stays in
fp32; matrix work, where the time goes, is fp16. The residual stream is fp32 because its sums are
what rounding spoils most: on the stress tower (24 layers, activations up to 3000) an fp16
stream moves the default head's score by 8.6e-3, an fp32 one by 1.8e-3.

Random weights show that this graph computes the tower, with what error where activations are small,
and that TensorRT takes it. They do not show a trained tower's ranges: the stress tower imitates
those, and every export measures its own weights' (ranges.py), refuses what overflows, and compares
cosines and scores. Only an export of real weights certifies real weights.

| fp32 | fp16 |
|---|---|
| pixels, mean, std | patch embedding |
| residual stream and its sums | q, k, v, attention, its output projection |
| every LayerNorm | the MLP with its QuickGELU |
| L2 norm | the final projection |
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from aesthetic_export.towers import QUICK_GELU_FACTOR


class HalfTower(nn.Module):
    """A tower's own weights in fp16 where they multiply matrices. The given one is left as it is.

    `tower` is open_clip's vision transformer (towers.py), whose activation has been checked.
    In: (N, 3, 224, 224) fp32 normalised RGB. Out: (N, 768) fp32, not yet L2-normalised.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        source: dict[str, torch.Tensor] = tower.state_dict()
        self.stride: tuple[int, int] = tuple(tower.conv1.stride)
        self.patches = nn.Parameter(source["conv1.weight"].half())
        self.class_embedding = nn.Parameter(source["class_embedding"].float())
        self.positions = nn.Parameter(source["positional_embedding"].float())
        self.ln_pre = LayerNorm32(tower.ln_pre)
        self.blocks = nn.ModuleList(HalfBlock(block) for block in tower.transformer.resblocks)
        self.ln_post = LayerNorm32(tower.ln_post)
        self.projection = nn.Parameter(source["proj"].half())
        self.eval().requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = functional.conv2d(image.half(), self.patches, stride=self.stride).float()
        patches = patches.flatten(2).transpose(1, 2)  # (N, 256, width)
        classes = self.class_embedding.expand(image.shape[0], 1, -1)
        stream = self.ln_pre(torch.cat([classes, patches], dim=1) + self.positions)
        for block in self.blocks:
            stream = block(stream)
        pooled: torch.Tensor = self.ln_post(stream[:, 0]).half() @ self.projection
        return pooled.float()


class HalfBlock(nn.Module):
    """(N, 257, width) fp32 residual stream -> the same."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention, mlp = block.attn, block.mlp
        self.heads = int(attention.num_heads)
        self.ln_1, self.ln_2 = LayerNorm32(block.ln_1), LayerNorm32(block.ln_2)
        self.qkv = HalfLinear(attention.in_proj_weight, attention.in_proj_bias)
        self.out = HalfLinear(attention.out_proj.weight, attention.out_proj.bias)
        self.fc = HalfLinear(mlp.c_fc.weight, mlp.c_fc.bias)
        self.proj = HalfLinear(mlp.c_proj.weight, mlp.c_proj.bias)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        stream = stream + self.attend(self.ln_1(stream).half()).float()
        hidden = self.fc(self.ln_2(stream).half())
        hidden = hidden * torch.sigmoid(QUICK_GELU_FACTOR * hidden)
        sums: torch.Tensor = stream + self.proj(hidden).float()
        return sums

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 257, width) fp16 -> the same. The scale goes to q, before the products are summed."""
        q, k, v = (self.split(part) for part in self.qkv(x).chunk(3, dim=-1))
        logits = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
        mixed = torch.softmax(logits, dim=-1) @ v  # largest logit subtracted: all within [0, 1]
        result: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 257, width) -> (N, heads, 257, width / heads)"""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class HalfLinear(nn.Module):
    """(..., inputs) fp16 -> (..., outputs) fp16. The weight lies as MatMul wants it, transposed."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().t().half().contiguous())
        self.bias = nn.Parameter(bias.detach().half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = x @ self.weight
        return product + self.bias


class LayerNorm32(nn.Module):
    """(..., width) fp32 -> the same."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().float().clone())
        self.bias = nn.Parameter(norm.bias.detach().float().clone())
        self.eps = float(norm.eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = list(self.weight.shape)
        return functional.layer_norm(x, shape, self.weight, self.bias, self.eps)
