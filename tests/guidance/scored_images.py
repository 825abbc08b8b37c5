"""Images to score, and the gradients that a scorer gives."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def images(count: int = 2, height: int = 60, width: int = 80, dtype=torch.float32) -> torch.Tensor:
    """Away from 0 and 1, so that nothing is clamped and small steps stay in range."""
    generator = torch.Generator().manual_seed(count * height + width)
    noise = torch.rand(count, 3, height // 5, width // 5, generator=generator, dtype=dtype)
    return functional.interpolate(noise, scale_factor=5) * 0.4 + 0.3


def gradient(scorer: Any, pixels: torch.Tensor) -> torch.Tensor:
    pixels = pixels.clone().requires_grad_()
    (found,) = torch.autograd.grad(scorer.score(pixels).sum(), pixels)
    return found


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
