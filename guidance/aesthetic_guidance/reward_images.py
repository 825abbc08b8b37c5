"""Generated images, in the forms that trainers hold them in, as 8-bit images."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.errors import InputError

RANGE_SLACK = 1e-3  # a quarter of an 8-bit step: what arithmetic may leave outside of [0, 1]
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # of a PNG, by channels: grey, RGB, RGBA
_SUB = 1  # PNG's filter that keeps the difference to the pixel on the left
_FAST = 1  # zlib's level; photographs gain 5% from higher ones and take five times as long


def each_image(images: Any) -> list[Any]:
    """The images of a batch, one by one. Raises InputError for what is no batch."""
    shape = getattr(images, "shape", None)
    if shape is not None and len(shape) != 4:
        raise InputError(f"images: expected a batch of four dimensions, got shape {tuple(shape)}")
    if isinstance(images, str | bytes | os.PathLike) or not isinstance(images, Iterable):
        raise InputError(
            f"images: expected a tensor, an array or a list, got {type(images).__name__}"
        )
    return list(images)


def eight_bit(image: Any) -> Any:
    """A tensor (3, H, W) or an array (H, W, 3) as uint8 (H, W, 3); anything else as it is.

    uint8 is taken as it is. Floats are RGB in [0, 1]: widened to float32, times 255, rounded to the
    nearest integer, halves to the even one. So do DDPO's and Flow-GRPO's own rewards, but for half
    precision, which they round in its own few digits. One channel is grey.
    Raises InputError for another shape or type, NaN, and values outside of [0, 1].
    """
    if _is_tensor(image):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise InputError(f"expected a tensor (3, H, W), got shape {tuple(image.shape)}")
        image = image.detach()
        if image.is_floating_point():  # on its own device: a quarter of the bytes come over
            image = image.float()
            if image.numel():
                _check_range(float(image.min()), float(image.max()))
            image = (image * 255).round().clamp(0, 255).byte()
        found: NDArray[Any] = image.permute(1, 2, 0).cpu().numpy()
        return _squeezed(found)
    if not isinstance(image, np.ndarray):
        return image
    if np.issubdtype(image.dtype, np.floating):
        image = image.astype(np.float32)
        if image.size:
            _check_range(float(image.min()), float(image.max()))
        image = np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
    return _squeezed(image)


def png_bytes(image: Any) -> bytes:
    """An image file's bytes: a uint8 array or a PIL image as PNG, which loses nothing.

    Bytes and paths are files already. Raises InputError for anything else.
    """
    if isinstance(image, np.ndarray):
        return _png_of_array(image)
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise InputError(f"{os.fspath(image)}: {error.strerror or error}") from None
    if not hasattr(image, "save"):
        raise InputError(
            f"expected a tensor, array, PIL image, path or bytes, got {type(image).__name__}"
        )
    buffer = io.BytesIO()
    try:
        image.save(buffer, "PNG", compress_level=_FAST)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be sent as a PNG: {error}; convert it to RGB first") from None
    return buffer.getvalue()


def _is_tensor(image: object) -> TypeGuard[Any]:
    # Torch is not imported for this: a trainer that holds tensors has it.
    return hasattr(image, "detach") and hasattr(image, "is_floating_point")


def _check_range(low: float, high: float) -> None:
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("has pixels that are NaN or infinite")
    if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
        raise InputError(
            f"has values from {low:.4g} to {high:.4g}, expected [0, 1]: of a model's [-1, 1] that "
            "is (images / 2 + 0.5).clamp(0, 1)"
        )


def _squeezed(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, 3), (H, W, 4) or grey (H, W), of uint8. Raises InputError for another one."""
    if image.dtype != np.uint8:
        raise InputError(f"expected uint8 or floats in [0, 1], got {image.dtype}")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in COLOUR_TYPES or not image.size:
        raise InputError(f"expected an array (H, W, 3), got shape {image.shape}")
    image = np.ascontiguousarray(image)
    return image[..., 0] if image.shape[2] == 1 else image


def _png_of_array(image: NDArray[np.uint8]) -> bytes:
    """A PNG by the standard library alone (W3C, Portable Network Graphics, third edition)."""
    pixels = image if image.ndim == 3 else image[..., None]
    height, width, channels = pixels.shape
    lines = np.empty((height, 1 + width * channels), np.uint8)
    lines[:, 0] = _SUB
    left = np.pad(pixels, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    lines[:, 1:] = (pixels - left).reshape(height, -1)  # modulo 256, as the format has it
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(lines.tobytes(), _FAST)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
