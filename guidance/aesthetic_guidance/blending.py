"""Mixtures of two vectors by straight line or by arc, and targets turned towards a text.

The choices are those of github.com/AUTOMATIC1111/stable-diffusion-webui-aesthetic-gradients.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from aesthetic_guidance.recipes import check_share

SMALLEST_SINE = 1e-6  # of the angle; below, both ways of mixing agree, or the arc is undefined


def lerp(start: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    """(1 - weight) start + weight end."""
    return (1 - weight) * start + weight * end


def slerp(start: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    """The arc from `start` to `end`, (..., width), each vector of the last axis by itself.

    Lengths go from one to the other with the weights of the directions (Shoemake, Animating
    Rotation with Quaternion Curves, SIGGRAPH 1985). Parallel vectors are mixed by a straight line,
    where the formula alone gives NaN. The extension takes the angle along the axis of tokens, which
    mixes positions; here each token's hidden state is turned by its own.
    """
    a, b = start.double(), end.double()
    cosine = (functional.normalize(a, dim=-1) * functional.normalize(b, dim=-1)).sum(-1, True)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    arc = (((1 - weight) * angle).sin() * a + (weight * angle).sin() * b) / sine
    return torch.where(sine > SMALLEST_SINE, arc, lerp(a, b, weight)).to(start.dtype)


def steered(
    embedding: torch.Tensor, text: torch.Tensor, angle: float = 0.1, *, negative: bool = False
) -> torch.Tensor:
    """An aesthetic embedding turned by `angle`, 0 to 1, towards a text embedding; (768,), unit.

    `negative` turns it away from the text instead: towards embedding - text. Both are normalised
    first, where the extension leaves the text as long as it is.
    Raises InputError for another angle.
    """
    check_share("angle", angle)
    start, towards = functional.normalize(embedding, dim=-1), functional.normalize(text, dim=-1)
    if negative:
        towards = functional.normalize(start - towards, dim=-1)
    return functional.normalize(slerp(start, towards, angle), dim=-1)
