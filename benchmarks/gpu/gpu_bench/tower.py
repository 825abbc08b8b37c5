"""CLIP's image tower in plain torch, without open_clip, which the tests compare it with.

Parameters are named as open_clip names them, so that a state dict of either fits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from gpu_bench.shapes import EMBEDDING, IMAGE, Shape

MEAN = (0.48145466, 0.4578275, 0.40821073)  # RGB; a test compares them with the client's
STD = (0.26862954, 0.26130258, 0.27577711)
QUICK_GELU = 1.702  # OpenAI's weights need x * sigmoid(1.702 x)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * shape.width, shape.width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * shape.width))
        self.out_proj = nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        mixed = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        split = mixed.view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out_proj(seen.transpose(1, 2).reshape(batch, tokens, width))
        return out


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.c_fc = nn.Linear(shape.width, shape.width * shape.mlp_ratio)
        self.c_proj = nn.Linear(shape.width * shape.mlp_ratio, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        out: Tensor = self.c_proj(x * torch.sigmoid(QUICK_GELU * x))
        return out


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.width)
        self.attn = Attention(shape)
        self.ln_2 = nn.LayerNorm(shape.width)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))


class Tower(nn.Module):
    """(N, 3, 224, 224) normalised RGB -> (N, 768), not yet of length 1."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.conv1 = nn.Conv2d(3, shape.width, shape.patch, shape.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(shape.width))
        self.positional_embedding = nn.Parameter(torch.empty(shape.tokens, shape.width))
        self.ln_pre = nn.LayerNorm(shape.width)
        self.transformer = Transformer(shape)
        self.ln_post = nn.LayerNorm(shape.width)
        self.proj = nn.Parameter(torch.empty(shape.width, EMBEDDING))

    def forward(self, image: Tensor) -> Tensor:
        side, size = IMAGE // self.shape.patch, self.shape.patch
        # A convolution whose stride is its kernel is a product over patches; cuDNN is slower at it.
        patches = image.view(-1, 3, side, size, side, size).permute(0, 2, 4, 1, 3, 5)
        x = patches.reshape(-1, side * side, 3 * size * size) @ self.conv1.weight.flatten(1).t()
        start = self.class_embedding.expand(x.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([start, x], dim=1) + self.positional_embedding)
        for block in self.transformer.resblocks:
            x = block(x)
        out: Tensor = self.ln_post(x[:, 0]) @ self.proj
        return out


class ClipImage(nn.Module):
    """(N, 224, 224, 3) uint8 -> (N, 768) fp32 of length 1; the tower in its own precision.

    Mean and deviation are applied in fp32, as the served graph does.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        # To float first: TensorRT takes no UINT8 into anything but a cast.
        image = pixels.float().permute(0, 3, 1, 2) / 255
        image = ((image - self.mean) / self.std).to(self.tower.proj.dtype)
        return functional.normalize(self.tower(image).float(), dim=-1)


def seeded_tower(shape: Shape, seed: int) -> Tower:
    """Random weights spread as CLIP's are before training; scores of them mean nothing."""
    tower = Tower(shape)
    random = torch.Generator().manual_seed(seed)
    width, deep = shape.width**-0.5, (2 * shape.layers) ** -0.5
    spread = {
        "conv1.weight": 0.05,
        "attn.in_proj_weight": width,
        "attn.out_proj.weight": width * deep,
        "mlp.c_fc.weight": (2 * shape.width) ** -0.5,
        "mlp.c_proj.weight": width * deep,
    }
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "ln_" in name:
                parameter.fill_(1)
            else:
                known = [value for end, value in spread.items() if name.endswith(end)]
                parameter.normal_(0, known[0] if known else width, generator=random)
    return tower.eval().requires_grad_(False)


def tower_from_state(state: Mapping[str, Tensor], shape: Shape) -> Tower:
    """A tower with the weights of a CLIP state dict. Raises RuntimeError for what does not fit."""
    prefix = "visual." if any(name.startswith("visual.") for name in state) else ""
    own = {
        name.removeprefix(prefix): value.float()
        for name, value in state.items()
        if name.startswith(prefix)
    }
    tower = Tower(shape)
    tower.load_state_dict(own, strict=True)
    return tower.eval().requires_grad_(False)


def clip_image(tower: Tower, dtype: torch.dtype, device: torch.device) -> ClipImage:
    """The served model around a copy of the tower in `dtype`."""
    module = ClipImage(tower).to(device)
    module.tower.to(dtype)
    return module.eval().requires_grad_(False)
