"""Inputs for parity checks: made-up photographs, people's own images, and unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aesthetic_client.contract import EMBEDDING_DIM, IMAGE_SIZE
from aesthetic_client.errors import ImageError, InputError

PARITY_IMAGES = 8
# For the profiles whose scores differ: how they are spread, and how well they rank.
MANY_IMAGES = 64
MANY_MADE_UP = 24
CALIBRATION_IMAGES = 16  # for int8's ranges, on which it is then not compared
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True)
class Images:
    """What a tower is compared on, and int8 calibrated with: (n, 224, 224, 3) uint8 each."""

    compared: npt.NDArray[np.uint8]
    calibration: npt.NDArray[np.uint8]
    kind: str
    apart: bool  # no image is in both

    @property
    def calibration_note(self) -> str:
        both = "" if self.apart else ", on which it was compared too"
        return f"{len(self.calibration)} {self.kind}{both}"

    def only(self, kept: Sequence[int]) -> Images:
        """Compared on those positions only."""
        return Images(self.compared[list(kept)], self.calibration, self.kind, self.apart)


def images_to_compare(images: npt.NDArray[np.uint8] | None, *, many: bool) -> Images:
    """Of the photographs `images`, or made-up ones; `many` for profiles whose scores differ."""
    kind = "made-up images" if images is None else "photographs"
    count = MANY_IMAGES if many else PARITY_IMAGES
    if images is None:
        count = MANY_MADE_UP if many else PARITY_IMAGES
        images = made_up_images(count + (CALIBRATION_IMAGES if many else 0))
    apart = len(images) >= CALIBRATION_IMAGES + PARITY_IMAGES
    if not apart:
        return Images(images[:count], images[:CALIBRATION_IMAGES], kind, apart)
    # From all over the folder, whose files may be sorted by kind.
    chosen = np.linspace(0, len(images) - 1, CALIBRATION_IMAGES).round().astype(int)
    rest = np.setdiff1d(np.arange(len(images)), chosen)
    return Images(images[rest[:count]], images[chosen], kind, apart)


def made_up_images(count: int = PARITY_IMAGES) -> npt.NDArray[np.uint8]:
    """(count, 224, 224, 3) RGB: a gradient and noise on scales of 56 to 1 pixels, image by image.

    Photographs have such a spectrum; the same call gives the same images.
    """
    return np.stack([_made_up_image(np.random.default_rng(1000 + i)) for i in range(count)])


def images_of_folder(
    folder: Path, *, limit: int = MANY_IMAGES + CALIBRATION_IMAGES
) -> npt.NDArray[np.uint8]:
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
