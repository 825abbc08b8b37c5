"""The reference's resize and centre crop as a differentiable function of float images.

What `aesthetic_client.pixels` does to files with Pillow, done to tensors: the shorter side becomes
224 (bicubic, a = -0.5, antialiased), then the centre is cropped. A resize is linear, so each axis
is one matrix product; only the rows of the matrix that the crop keeps are built, and only the
pixels that they look at are multiplied.

Keys, "Cubic Convolution Interpolation for Digital Image Processing" (1981) has the kernel. That it
is stretched by the scale when shrinking, cut off at the border and normalised to sum to one is
Pillow's way (`Image.resize` with BICUBIC).

Pillow rounds to 8 bits after each axis. Without that the result differs from the reference's pixels
by 0.3/255 on average and 1.1/255 at most; with it, by 1/255 on two values in ten thousand, which
are ties (tests/guidance/test_guidance_resize.py). Which axis comes first is the installed Pillow's
choice (`is_vertical_first`). In scores of the tests' random tower, which is made to be sensitive,
over real photographs: 4% of their standard deviation on average without rounding, 0.2% with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from aesthetic_client.contract import IMAGE_SIZE

try:
    from PIL import __version__ as _pillow
except ImportError:  # tensors need none; then as the current one does
    _pillow = "13"

# From 13.0 on Pillow shrinks tall images vertically first (github.com/python-pillow/Pillow, pull
# request 9549), which rounds and clamps otherwise. Known here at import, for torch.compile.
PILLOW_SWAPS_TALL = int(_pillow.split(".")[0]) >= 13
CUBIC_A = -0.5  # Pillow's bicubic; torch's and OpenCV's own has -0.75
CUBIC_SUPPORT = 2.0  # pixels on either side
# Sums of weights miss 1 by some 1e-7. A clamp at exactly 1 would, by that chance, cut the gradient
# of saturated areas; this much (0.003/255) is let through.
CLAMP_SLACK = 1e-5


@dataclass(frozen=True)
class Axis:
    """One axis of the transform: `size` pixels are resized to `resized`, and 224 kept from `start`.

    `scale` is in input pixels per output pixel.
    """

    size: int
    resized: int
    start: int
    scale: float


def axes_of(height: int, width: int) -> tuple[Axis, Axis]:
    """(vertical, horizontal) as the reference computes them.

    torchvision's Resize truncates the longer side; its CenterCrop rounds half to even.
    """
    short = min(height, width)

    def axis(size: int) -> Axis:
        resized = int(IMAGE_SIZE * size / short)
        return Axis(size, resized, round((resized - IMAGE_SIZE) / 2), size / resized)

    return axis(height), axis(width)


def resize_and_crop(images: torch.Tensor, *, round_to_8bit: bool = False) -> torch.Tensor:
    """(B, C, H, W) floats in [0, 1] -> (B, C, 224, 224) of the same dtype, in [0, 1].

    Images of 224x224 come back as they are. `round_to_8bit` rounds where Pillow does (the image
    itself, and after each axis), and lets gradients through as if it had not: what is scored is
    then the image as an 8-bit file would hold it. Overshoots are clamped as Pillow clamps them, and
    have no gradient, which is the transform's true one.
    """
    vertical, horizontal = axes_of(images.shape[-2], images.shape[-1])
    if round_to_8bit:
        images = rounded_to_8bit(images)
    axes = ((horizontal, -1), (vertical, -2))
    for axis, dim in axes[::-1] if is_vertical_first(vertical, horizontal) else axes:
        if axis.size == axis.resized:
            images = images.narrow(dim, axis.start, IMAGE_SIZE)
            continue
        images = _resized(images, axis, dim).clamp(-CLAMP_SLACK, 1 + CLAMP_SLACK)
        if round_to_8bit:
            images = rounded_to_8bit(images)
    return images


def is_vertical_first(vertical: Axis, horizontal: Axis) -> bool:
    """Whether Pillow's `Image.resize` takes the vertical axis first, as its C code decides it."""
    tall = vertical.size > 2 * horizontal.size and vertical.resized < vertical.size
    return tall and PILLOW_SWAPS_TALL


def rounded_to_8bit(images: torch.Tensor) -> torch.Tensor:
    """The nearest multiples of 1/255 forward; backward, the identity (straight-through).

    Bengio, Léonard and Courville, arXiv 1308.3432.
    """
    steps = (images.detach() * 255).round().clamp(0, 255) / 255
    return images + (steps - images.detach())


@lru_cache(maxsize=16)  # training shows one size again and again
@torch.inference_mode(False)  # a matrix made for scoring alone must serve gradients later
def resize_matrix(axis: Axis) -> tuple[torch.Tensor, int]:
    """The kept rows of the axis' resize as float64 (224, n), and the first of the n pixels' index.

    Each row sums to one; pixels outside of the n have no weight in any row. Not to be written to.
    """
    outputs = torch.arange(axis.start, axis.start + IMAGE_SIZE, dtype=torch.float64)
    centres = (outputs + 0.5) * axis.scale  # in pixels of the input; pixel i spans i to i + 1
    stretch = max(axis.scale, 1.0)
    reach = CUBIC_SUPPORT * stretch
    start = max(math.floor(float(centres[0]) - reach), 0)
    stop = min(math.ceil(float(centres[-1]) + reach), axis.size)
    inputs = torch.arange(start, stop, dtype=torch.float64)
    weights = cubic((inputs + 0.5 - centres[:, None]) / stretch)
    return weights / weights.sum(1, keepdim=True), start


def cubic(distance: torch.Tensor) -> torch.Tensor:
    """Keys' cubic convolution kernel: 1 at 0, 0 at every other whole number, 0 from 2 on."""
    x = distance.abs()
    near = ((CUBIC_A + 2) * x - (CUBIC_A + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * CUBIC_A - 4 * CUBIC_A
    return torch.where(x < 1, near, torch.where(x < CUBIC_SUPPORT, far, torch.zeros_like(x)))


def _resized(images: torch.Tensor, axis: Axis, dim: int) -> torch.Tensor:
    matrix, start = resize_matrix(axis)
    matrix = matrix.to(images)
    looked_at = images.narrow(dim, start, matrix.shape[1])
    return looked_at @ matrix.T if dim == -1 else matrix @ looked_at
