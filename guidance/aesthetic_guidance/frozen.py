"""The image tower as a fixed function for training through: gradients to its input, none to it.

All weights are buffers that no state dict holds. So an optimiser or `requires_grad_(True)` on a
module around it cannot reach them, no checkpoint carries 1.2 GB of CLIP along, and no gradient is
ever kept for them.

The blocks are written out, because open_clip's attention module picks its kernels by mode and
type: without its fast path, bfloat16 on a CPU can take minutes. With `dtype` bfloat16 the matrix
products run in it; the residual stream, LayerNorm and softmax's sums stay in fp32, for their
rounding would be what moves scores most (export/aesthetic_export/half.py has measured that).

PyTorch's fused attention has no second derivatives. For those, run forward and backward under
`torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from aesthetic_client.errors import InputError
from aesthetic_export.towers import QUICK_GELU_FACTOR, check_quick_gelu

DTYPES = (torch.float32, torch.bfloat16, torch.float64)  # float64: to check gradients with
Module = TypeVar("Module", bound=nn.Module)


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums, norms and heads are computed in where matrix products are in `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def frozen(module: Module) -> Module:
    """`module` with every parameter and buffer turned into a buffer that no state dict holds."""
    for part in module.modules():
        for name, parameter in [*part.named_parameters(recurse=False)]:
            delattr(part, name)
            part.register_buffer(name, parameter.detach(), persistent=False)
        for name, buffer in [*part.named_buffers(recurse=False)]:
            part.register_buffer(name, buffer, persistent=False)
    return module


class FrozenTower(nn.Module):
    """open_clip's vision transformer (towers.py), whose weights are shared, or cast to `dtype`.

    In: (N, 3, 224, 224) normalised RGB, fp32. Out: (N, 768) fp32, not yet L2-normalised; both are
    float64 where `dtype` is. `checkpointing` keeps each block's input only and computes the block
    again in the backward pass: the same gradients, up to half more time, a third of the memory.
    Raises ActivationError for a tower without QuickGELU, InputError for another `dtype`.
    """

    def __init__(
        self, tower: Any, dtype: torch.dtype = torch.float32, *, checkpointing: bool = False
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            names = ", ".join(str(known) for known in DTYPES)
            raise InputError(f"dtype {dtype} is not supported; use one of {names}")
        check_quick_gelu(tower)
        self.dtype = dtype
        self.checkpointing = checkpointing
        self.patch = int(tower.conv1.stride[0])
        self.patches = _Linear(tower.conv1.weight.flatten(1), None, dtype)
        self.class_embedding = nn.Parameter(tower.class_embedding.detach().to(wide(dtype)))
        self.positions = nn.Parameter(tower.positional_embedding.detach().to(wide(dtype)))
        self.ln_pre, self.ln_post = _Norm(tower.ln_pre, dtype), _Norm(tower.ln_post, dtype)
        self.blocks = nn.ModuleList(_Block(block, dtype) for block in tower.transformer.resblocks)
        self.projection = _Linear(tower.proj.t(), None, dtype)
        frozen(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = image.shape
        grid = height // self.patch, self.patch, width // self.patch, self.patch
        patches = image.reshape(batch, channels, *grid).permute(0, 2, 4, 1, 3, 5)
        # (N, 256, 3 * 14 * 14) -> (N, 256, width)
        tokens = self.patches(patches.reshape(batch, grid[0] * grid[2], -1))
        classes = self.class_embedding.expand(batch, 1, -1)
        stream = self.ln_pre(torch.cat([classes, tokens], dim=1) + self.positions)
        recompute = self.checkpointing and torch.is_grad_enabled() and stream.requires_grad
        for block in self.blocks:
            if recompute:
                stream = checkpoint(block, stream, use_reentrant=False, preserve_rng_state=False)
            else:
                stream = block(stream)
        embedding: torch.Tensor = self.projection(self.ln_post(stream[:, 0]))
        return embedding


class _Block(nn.Module):
    """(N, 257, width) residual stream -> the same."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        super().__init__()
        attention, mlp = block.attn, block.mlp
        self.heads = int(attention.num_heads)
        self.ln_1, self.ln_2 = _Norm(block.ln_1, dtype), _Norm(block.ln_2, dtype)
        self.qkv = _Linear(attention.in_proj_weight, attention.in_proj_bias, dtype)
        self.out = _Linear(attention.out_proj.weight, attention.out_proj.bias, dtype)
        self.fc = _Linear(mlp.c_fc.weight, mlp.c_fc.bias, dtype)
        self.proj = _Linear(mlp.c_proj.weight, mlp.c_proj.bias, dtype)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        stream = stream + self.out(self.attend(self.ln_1(stream)))
        hidden = self.fc(self.ln_2(stream))
        hidden = hidden * torch.sigmoid(QUICK_GELU_FACTOR * hidden)
        result: torch.Tensor = stream + self.proj(hidden)
        return result

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 257, width) -> the same, every head by itself."""
        split = self.qkv(x, widen=False).unflatten(-1, (3, self.heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (N, heads, 257, width / heads)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).flatten(2)


class _Linear(nn.Module):
    """(..., inputs) -> (..., outputs), multiplied in `dtype`; the result is wide unless told."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().to(dtype))
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(dtype))

    def forward(self, x: torch.Tensor, *, widen: bool = True) -> torch.Tensor:
        product = functional.linear(x.to(self.weight.dtype), self.weight, self.bias)
        return product.to(wide(product.dtype)) if widen else product


class _Norm(nn.Module):
    """LayerNorm over the last axis, wide."""

    def __init__(self, norm: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().to(wide(dtype)))
        self.bias = nn.Parameter(norm.bias.detach().to(wide(dtype)))
        self.eps = float(norm.eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
