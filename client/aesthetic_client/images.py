"""From what callers hold (path, bytes, file object, PIL image, array) to what goes on the wire."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeGuard, Union

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import pixels
from aesthetic_client.contract import PIXELS
from aesthetic_client.errors import ImageError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSource = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, BinaryIO, "Image", NDArray[np.uint8]
]
Decode = Literal["server", "client"]

MAX_FILE_BYTES = 128 * 2**20  # a larger file could not be decoded within any sensible limit


@dataclass(frozen=True)
class Encoded:
    """One image file's bytes, for the `aesthetic` ensemble."""

    data: bytes


@dataclass(frozen=True)
class Prepared:
    """One image's pixels, uint8 (224, 224, 3), for the `aesthetic_pixels` ensemble."""

    pixels: NDArray[np.uint8]


def load(source: ImageSource, decode: Decode, options: pixels.PixelOptions) -> Encoded | Prepared:
    """Read one source; with decode="client", prepare its pixels here as well.

    PIL images and arrays are always prepared here, since the reference resizes an image in its own
    mode, which a re-encoded file would not keep. Raises ImageError, or InputError for another type.
    """
    if isinstance(source, np.ndarray):
        return Prepared(_pixels_from_array(source, options))
    if _is_pil_image(source):
        return Prepared(pixels.pixels_from_image(source, options))
    data = _read(source)
    if not data:
        raise ImageError("empty", "the image has no bytes")
    if decode == "server":
        return Encoded(data)
    _require_pillow('decode="client"')
    return Prepared(pixels.prepare_pixels(data, options))


def _is_pil_image(source: object) -> TypeGuard[Image]:
    # Only who imported Pillow can hold one of its images; without it nothing is imported here.
    # While another thread still imports it, the module is there without its class.
    image_class = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return image_class is not None and isinstance(source, image_class)


def describe(source: object) -> str:
    """A short name of a source, for errors and tables."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if name := getattr(source, "name", None) or getattr(source, "filename", None):
        return str(name)
    return type(source).__name__


def _read(source: object) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return _read_file(Path(source))
    if hasattr(source, "read"):
        data = source.read()
        if isinstance(data, bytes):
            return data
        raise InputError("the file object gives text: open it in binary mode, 'rb'")
    raise InputError(
        "expected a path, bytes, binary file object, PIL image or uint8 array, "
        f"got {type(source).__name__}"
    )


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ImageError(
                "too_large",
                f"the file has {size / 2**20:.0f} MB, the limit is {MAX_FILE_BYTES >> 20}",
            )
        return path.read_bytes()
    except OSError as error:
        raise ImageError("unreadable", f"{path}: {error.strerror or error}") from None


def _pixels_from_array(array: NDArray[np.uint8], options: pixels.PixelOptions) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise InputError(
            f"an image array must be uint8 (H, W, 3), got {array.dtype}; "
            "for floats in [0, 1]: (array * 255).round().astype('uint8')"
        )
    if array.shape == PIXELS.dims:
        return array
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)):
        raise InputError(f"an image array must be (H, W, 3), RGB; got shape {array.shape}")
    _require_pillow("arrays that are not 224x224x3")
    from PIL import Image

    return pixels.pixels_from_image(Image.fromarray(np.ascontiguousarray(array)), options)


def _require_pillow(what: str) -> None:
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise InputError(f"{what}: needs Pillow; pip install 'aesthetic-triton[pixels]'") from None
