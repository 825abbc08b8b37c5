"""JPEG by libjpeg-turbo's own interface (the wheel `simplejpeg`): Pillow's pixels, in less time.

Both are libjpeg-turbo with the accurate inverse DCT and smooth chroma upsampling. A file that
draws so much as a warning is left to Pillow, which decides what is broken and says why.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

COLOURS = {"RGB": ("RGB", 3), "L": ("GRAY", 1)}  # Pillow's mode: simplejpeg's name, bands
FORMATS = ("JPEG", "MPO")  # of MPO the first frame, which is a JPEG
SCALES = (8, 4, 2)  # 1/8, 1/4, 1/2: fewer DCT coefficients and no others to compute

# Fresh memory costs more than a quarter of the decoding (the kernel clears each page), so that
# what was decoded last is written over: at most so many buffers of so many bytes are kept.
KEPT_BUFFERS = 2
KEPT_BYTES = 48_000_000  # 16 megapixels of RGB
_kept: list[NDArray[np.uint8]] = []


class Decoded:
    """Decoded pixels, uint8 (height, width, bands), in memory that `release` gives back."""

    def __init__(self, pixels: NDArray[np.uint8], buffer: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self._buffer = buffer

    def release(self) -> None:
        """Let the next image have the memory. The pixels must not be read any more."""
        if self._buffer.nbytes <= KEPT_BYTES and len(_kept) < KEPT_BUFFERS:
            _kept.append(self._buffer)


def decode(data: bytes, image: Image.Image, scale: int) -> Decoded | None:
    """The pixels of the file that `image` was opened from, 1/scale in size, as Pillow has them.

    None where Pillow has to decode: no `simplejpeg`, other colours, or anything odd in the file.
    """
    simplejpeg = _simplejpeg()
    if simplejpeg is None or image.format not in FORMATS or image.mode not in COLOURS:
        return None
    colour, bands = COLOURS[image.mode]
    width, height = -(-image.width // scale), -(-image.height // scale)
    buffer = _buffer(width * height * bands)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, colour, min_height=height, min_width=width, buffer=buffer, strict=True
        )
    except ValueError:  # also of a frame that is larger than the header which Pillow read
        pixels = None
    decoded = None if pixels is None else Decoded(pixels, buffer)
    if decoded is not None and decoded.pixels.shape == (height, width, bands):
        return decoded
    return None


def scale_for(image: Image.Image, least: int) -> int:
    """The largest reduction while decoding that leaves `least` pixels of the shorter side."""
    if image.format not in FORMATS:
        return 1
    return next((scale for scale in SCALES if min(image.size) // scale >= least), 1)


def _buffer(size: int) -> NDArray[np.uint8]:
    try:
        buffer = _kept.pop()
    except IndexError:
        return np.empty(size, np.uint8)
    return buffer if buffer.nbytes >= size else np.empty(size, np.uint8)


@lru_cache(maxsize=1)
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    return simplejpeg  # type: ignore[no-any-return, unused-ignore]
