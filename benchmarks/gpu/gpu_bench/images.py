"""What is scored: photographs where there are any and Pillow is there, else made-up pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from gpu_bench.project import project_module
from gpu_bench.shapes import IMAGE

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def images_for(folder: Path | None, count: int) -> tuple[Tensor, str]:
    """(count, 224, 224, 3) uint8, and where they come from in words. Fewer are repeated."""
    if folder is None:
        return made_up(count), "made up (no --images)"
    try:
        pixels = project_module("pixels")
        found = photographs(folder, count, pixels)
    except ImportError as error:
        return made_up(count), f"made up ({error.name or error} is missing, which reads images)"
    if not found:
        return made_up(count), "made up (no readable image in --images)"
    batch = torch.stack([found[i % len(found)] for i in range(count)])
    return batch, f"{len(found)} photographs, prepared as the server does"


def photographs(folder: Path, limit: int, pixels: object) -> list[Tensor]:
    """The readable images below `folder`, as the reference sees them. Raises ImportError."""
    import PIL.Image  # noqa: F401  only to say what is missing before the first image

    prepared: list[Tensor] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and len(prepared) < limit:
            try:
                array = pixels.prepare_pixels(path.read_bytes())  # type: ignore[attr-defined]
            except ValueError:  # ImageError: a benchmark needs images, not this one
                continue
            prepared.append(torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8))
    return [image.view(IMAGE, IMAGE, 3) for image in prepared]


def made_up(count: int) -> Tensor:
    """Noise on scales from the whole image to a pixel, as photographs have; the same each time."""
    random = torch.Generator().manual_seed(0)
    total = torch.full((count, 3, IMAGE, IMAGE), 128.0)
    for cells in (2, 4, 16, 56, 224):
        noise = torch.randn(count, 3, cells, cells, generator=random) * 160 / cells**0.5
        total += functional.interpolate(noise, size=(IMAGE, IMAGE), mode="nearest")
    return total.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
