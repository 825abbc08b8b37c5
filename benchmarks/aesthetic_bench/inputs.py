"""What is sent: images from a folder, or made up; the same ones as pixels; perf_analyzer's JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aesthetic_client import contract
from aesthetic_client.errors import ImageError
from aesthetic_client.pixels import prepare_pixels

from .errors import BenchError

Pixels = npt.NDArray[np.uint8]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_IMAGES = 8  # one batch of different ones
MADE_UP_SIZE = (
    1536,
    1152,
)  # width and height: 1.8 megapixels, as in many collections of photographs
MADE_UP_QUALITY = 90  # JPEG
LENGTH_BYTES = 4  # before each string on the wire


@dataclass(frozen=True)
class Images:
    """Encoded image files in a folder of the run, and their prepared pixels (n, 224, 224, 3)."""

    files: tuple[Path, ...]
    pixels: Pixels
    origin: str

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; no file names."""
        from PIL import Image

        sizes, formats = [], set()
        for file in self.files:
            with Image.open(file) as image:
                sizes.append(image.width * image.height / 1e6)
                formats.add(str(image.format))
        return {
            "origin": self.origin,
            "count": len(self.files),
            "formats": sorted(formats),
            "mean_megapixels": float(np.mean(sizes)),
            "mean_file_kb": float(np.mean([file.stat().st_size for file in self.files])) / 1e3,
        }


def load_images(folder: Path | None, scratch: Path) -> Images:
    """Up to eight readable images below `folder`, or as many made-up JPEG files in `scratch`.

    Raises BenchError where the folder has none.
    """
    if folder is None:
        files, origin = make_images(scratch), "made up: noise with a photograph's spectrum"
    else:
        if not folder.is_dir():
            raise BenchError(f"{folder} is no folder of images")
        files, origin = sorted(folder.rglob("*")), "a folder of the user's"
    kept: list[Path] = []
    prepared: list[Pixels] = []
    for file in files:
        if file.suffix.lower() in SUFFIXES and file.is_file() and len(kept) < MAX_IMAGES:
            try:
                prepared.append(prepare_pixels(file.read_bytes()))
            except ImageError:
                continue  # the benchmark wants images that are scored
            kept.append(file)
    if not kept:
        raise BenchError(f"{folder} has no readable JPEG, PNG or WebP image")
    return Images(tuple(kept), np.stack(prepared), origin)


def make_images(folder: Path, count: int = MAX_IMAGES) -> list[Path]:
    """Write JPEG files whose detail falls with its frequency as a photograph's does.

    The same call gives the same images; their size and so their decoding time are a photograph's.
    """
    from PIL import Image

    width, height = MADE_UP_SIZE
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fall = np.maximum(np.hypot(fy, fx), 1 / width) ** -1.25

    def plane(random: np.random.Generator, contrast: float) -> npt.NDArray[np.float64]:
        waves = fall * np.exp(2j * np.pi * random.random(fall.shape))
        values: npt.NDArray[np.float64] = np.fft.irfft2(waves, (height, width))
        return values * float(contrast / values.std())

    files = []
    for i in range(count):
        random = np.random.default_rng(2000 + i)
        light = 128 + plane(random, 45)
        planes = [light + plane(random, 15) for _ in "RGB"]  # colours vary less than light
        pixels = np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=MADE_UP_QUALITY)
        files.append(folder / f"made-up-{i}.jpg")
        files[-1].write_bytes(encoded.getvalue())
    return files


def write_image_data(files: Sequence[Path], target: Path) -> Path:
    """perf_analyzer's input data for `image`: one BYTES element a request, length first."""
    contents = [file.read_bytes() for file in files]
    elements = [len(data).to_bytes(LENGTH_BYTES, "little") + data for data in contents]
    return _write(contract.IMAGE, elements, target)


def write_pixel_data(pixels: Pixels, target: Path) -> Path:
    """perf_analyzer's input data for `pixels`: one prepared image a request."""
    return _write(contract.PIXELS, [image.tobytes() for image in pixels], target)


def _write(tensor: contract.Tensor, elements: Sequence[bytes], target: Path) -> Path:
    rows = [{tensor.name: {"b64": base64.b64encode(data).decode()}} for data in elements]
    target.write_text(json.dumps({"data": rows}), "utf-8")
    return target
