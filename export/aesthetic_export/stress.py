"""A tower with random weights and the activation ranges of a trained one, or beyond them.

What is published of CLIP's and other ViT-L's: "massive activations", a few values above 100 and
over 1000 times the median, in fixed channels of a few tokens (Sun et al., Massive Activations in
Large Language Models, arXiv:2402.17762: CLIP and DINOv2 ViT-L among the models); written by a few
neurons of one MLP into a few patch tokens (Jiang et al., Vision Transformers Don't Need Trained
Registers, arXiv:2506.08010: OpenCLIP); the largest hidden states and MLP activations in the middle
to last layers (Kim et al., arXiv:2510.04547: CLIP). PUBLISHED is of that size, Targets' defaults
lie above it, thousands instead of hundreds: from summaries of the literature, not from a tower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from aesthetic_export.modules import ClipImage
from aesthetic_export.samples import made_up_images
from aesthetic_export.towers import Shape, Tower, seeded_tower

PATCH = 100  # the token of a patch that draws the massive activation
CHANNELS = (133, 42)  # of the residual stream, where massive activations sit


@dataclass(frozen=True)
class Targets:
    """Largest magnitudes over the calibration images, reached by scaling random weights."""

    stream: float = 3000.0  # residual stream, in CHANNELS[0] of one patch token
    class_token: float = 300.0  # the same in CHANNELS[1] of the class token
    hidden: float = 600.0  # MLP, of the neurons that write the above
    ordinary_hidden: float = 30.0  # MLP, of all others
    logits: float = 30.0  # attention
    pooled: float = 20.0  # what the final projection gives, before the L2 norm
    share: float = 0.35  # of a sublayer's contribution in the stream's, root mean square


PUBLISHED = Targets(
    stream=300.0, class_token=100.0, hidden=150.0, ordinary_hidden=15.0, logits=20.0
)


class Recorder:
    """What a forward pass of the calibrated tower reached."""

    def __init__(self) -> None:
        self.stream = self.hidden = self.logits = 0.0
        self.norm_inputs: list[torch.Tensor] = []


def stress_tower(
    shape: Shape, targets: Targets = Targets(), seed: int = 0
) -> tuple[Tower, Recorder]:
    """A seeded tower scaled block by block until `targets` are met on two made-up images."""
    tower = seeded_tower(seed, shape)
    module: Any = tower.module
    seen = Recorder()
    massive_block = shape.layers // 3
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in _norms(module):
            norm.weight.copy_(1 + 0.3 * torch.randn(shape.width, generator=generator))
            norm.bias.copy_(0.1 * torch.randn(shape.width, generator=generator))
            norm.weight[list(CHANNELS)] = 0.02  # as training does, or they would drown the image
        module.conv1.weight *= 4  # so that images differ
        module.positional_embedding[PATCH] *= 200  # so that a neuron can know this token
        prepared = _prepared(made_up_images(2))
        stream = module._embeds(prepared)
        for index, block in enumerate(module.transformer.resblocks):
            seen.norm_inputs.append(stream)
            _scale_attention(block, stream, targets, seen)
            stream = stream + block.attention(block.ln_1(stream))
            if index == massive_block:
                _plant(block, stream, 0, CHANNELS[1], targets.class_token, targets.hidden)
                _plant(block, stream, PATCH, CHANNELS[0], targets.stream, targets.hidden)
            _scale_mlp(block, stream, targets, seen, planted=2 * (index == massive_block))
            stream = stream + block.mlp(block.ln_2(stream))
            seen.stream = max(seen.stream, float(stream.abs().max()))
        pooled = module.ln_post(stream[:, 0]) @ module.proj
        module.proj *= targets.pooled / pooled.abs().max()
    return tower, seen


def _prepared(pixels: Any) -> torch.Tensor:
    wrapper = ClipImage(nn.Identity())
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    prepared: torch.Tensor = (image - wrapper.mean) / wrapper.std
    return prepared


def _norms(module: Any) -> list[nn.LayerNorm]:
    return [part for part in module.modules() if isinstance(part, nn.LayerNorm)]


def _rms(x: torch.Tensor) -> float:
    """Over the ordinary channels."""
    ordinary = torch.ones(x.shape[-1], dtype=torch.bool)
    ordinary[list(CHANNELS)] = False
    return float(x[..., ordinary].square().mean().sqrt())


def _scale_attention(block: Any, stream: torch.Tensor, targets: Targets, seen: Recorder) -> None:
    attention = block.attn
    width = stream.shape[-1]
    normed = block.ln_1(stream)
    projected = normed @ attention.in_proj_weight.t() + attention.in_proj_bias
    q, k, _ = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in projected.chunk(3, dim=-1)
    )
    logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    gain = math.sqrt(targets.logits / float(logits.abs().max()))
    attention.in_proj_weight[: 2 * width] *= gain
    attention.in_proj_bias[: 2 * width] *= gain
    seen.logits = max(seen.logits, float(logits.abs().max()) * gain**2)
    given = block.attention(normed)
    attention.out_proj.weight *= targets.share * _rms(stream) / _rms(given)


def _scale_mlp(
    block: Any, stream: torch.Tensor, targets: Targets, seen: Recorder, planted: int
) -> None:
    fc, proj = block.mlp.c_fc, block.mlp.c_proj
    normed = block.ln_2(stream)
    hidden = normed @ fc.weight[planted:].t() + fc.bias[planted:]
    gain = targets.ordinary_hidden / float(hidden.abs().max())
    fc.weight[planted:] *= gain
    fc.bias[planted:] *= gain
    hidden = block.mlp.gelu(fc(normed))
    seen.hidden = max(seen.hidden, float(hidden.abs().max()))
    given = hidden[..., planted:] @ proj.weight[:, planted:].t()
    proj.weight[:, planted:] *= targets.share * _rms(stream) / _rms(given)


def _plant(
    block: Any, stream: torch.Tensor, token: int, channel: int, value: float, hidden: float
) -> None:
    """A neuron that fires with `hidden` at `token` only, and writes `value` into `channel`."""
    fc, proj = block.mlp.c_fc, block.mlp.c_proj
    neuron = CHANNELS.index(channel)
    normed = block.ln_2(stream)
    direction = normed[:, token].mean(0) - normed.mean((0, 1))
    response = normed @ direction
    others = torch.ones(normed.shape[1], dtype=torch.bool)
    others[token] = False
    low, high = float(response[:, others].max()), float(response[:, token].min())
    assert high > low, "the token cannot be told from the others"
    gain = hidden / (float(response[:, token].max()) - low)
    fc.weight[neuron] = direction * gain
    fc.bias[neuron] = -low * gain
    proj.weight[:, neuron] *= 0
    proj.weight[channel, neuron] = value / hidden
