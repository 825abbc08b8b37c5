"""Inputs for parity checks: made-up photographs, people's own images, and unit vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from aesthetic_client.contract import EMBEDDING_DIM, IMAGE_SIZE
from aesthetic_client.errors import ImageError, InputError

PARITY_IMAGES = 8
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def made_up_images(count: int = PARITY_IMAGES) -> npt.NDArray[np.uint8]:
    """(count, 224, 224, 3) RGB: a gradient and noise on scales of 56 to 1 pixels, image by image.

    Photographs have such a spectrum; the same call gives the same images.
    """
    return np.stack([_made_up_image(np.random.default_rng(1000 + i)) for i in range(count)])


def images_of_folder(folder: Path, *, limit: int = PARITY_IMAGES) -> npt.NDArray[np.uint8]:
    """(n, 224, 224, 3): the first `limit` images below `folder`, prepared as the server does it.

    Raises InputError when there are fewer than two readable ones.
    """
    from aesthetic_client.pixels import prepare_pixels

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    prepared: list[npt.NDArray[np.uint8]] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and len(prepared) < limit:
            try:
                prepared.append(prepare_pixels(path.read_bytes()))
            except ImageError:
                continue  # parity needs images, not these images
    if len(prepared) < 2:
        raise InputError(f"{folder} has {len(prepared)} readable images; a comparison needs two")
    return np.stack(prepared)


def unit_vectors(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """(count, 768) of length 1, evenly spread over the sphere."""
    vectors = np.random.default_rng(seed).standard_normal((count, EMBEDDING_DIM))
    unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)


def _made_up_image(random: np.random.Generator) -> npt.NDArray[np.uint8]:
    ys, xs = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] / IMAGE_SIZE
    angle = random.uniform(0, 2 * np.pi)
    ramp = (np.cos(angle) * xs + np.sin(angle) * ys)[..., None]
    image = random.uniform(40, 215, 3) + ramp * random.uniform(-90, 90, 3)
    for cells in (4, 16, 56, 224):
        noise = random.normal(0, 160 / np.sqrt(cells), (cells, cells, 3))
        side = IMAGE_SIZE // cells
        image = image + noise.repeat(side, axis=0).repeat(side, axis=1)
    pixels: npt.NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return pixels
