"""Pillow's bicubic resize and a crop in one, bit for bit, without the work that the crop discards.

What Pillow does (its `src/libImaging/Resample.c`): horizontally, then vertically, each output is a
sum of 8-bit pixels times coefficients that were rounded to 22 fractional bits, itself rounded to 8
bits. Here the same integers go through `_kernels`, which numba compiles: several times as fast, and
without the GIL. Where they cannot be used, Pillow resizes the whole image: the same pixels, later.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.contract import IMAGE_SIZE

if TYPE_CHECKING:
    from PIL import Image

# Pixels of a large image: (top, bottom, left, right) -> uint8 (rows, columns[, channels]).
Read = Callable[[int, int, int, int], NDArray[np.uint8]]

LARGE = 2 * IMAGE_SIZE  # of the shorter side: from here on this is the faster way
# Height to width. Above two, Pillow 13 resizes vertically first, which rounds otherwise, and Pillow
# 12 does not (github.com/python-pillow/Pillow/pull/9549); some room is left for the next one.
TALLEST = 1.9

ONE = 1 << 22  # of Pillow's coefficients; `_kernels.PRECISION_BITS`
SUPPORT = 2.0  # of the bicubic filter, in output pixels
STRIP = 1 << 18  # bytes read at a time, so that copies stay in the caches of the processor
PREMULTIPLIED = {"RGBA": "RGBa", "LA": "La"}  # Pillow's modes: with alpha, to be resized
_trying = threading.Lock()
_broken_off = False  # by a fork, whose child has none of the threads that were trying


@dataclass(frozen=True)
class Axis:
    """One direction: output i is sum(taps[i] * pixels[starts[i]:]) / ONE; pixels are start:stop."""

    starts: NDArray[np.int64]  # of each output's first pixel, from `start`
    taps: NDArray[np.int32]  # (outputs, n), zeros after an output's last
    start: int
    stop: int


def resize_and_crop(
    read: Read,
    size: tuple[int, int],
    extent: tuple[float, float],
    resized: tuple[int, int],
    corner: tuple[int, int],
    bands: int,
) -> NDArray[np.uint8]:
    """`resize(resized, BICUBIC, (0, 0, *extent)).crop(square at corner)`: uint8 (224, 224, bands).

    `size`, `extent` and `resized` are (width, height), `corner` is (left, top). For downscaling, by
    the same in both directions, since Pillow 13 begins with the one that shrinks far more. Raises
    where the kernels cannot be had: ask `takes` first.
    """
    kernels = _kernels()
    x = _axis(size[0], extent[0], resized[0], corner[0], kernels.LANES)
    y = _axis(size[1], extent[1], resized[1], corner[1], 1)
    columns, width = x.stop - x.start, bands * IMAGE_SIZE
    step = max(kernels.PLANES, STRIP // (columns * bands))
    between = np.empty((y.stop - y.start, width), np.uint8)
    for top in range(y.start, y.stop, step):
        bottom = min(top + step, y.stop)
        pixels = read(top, bottom, x.start, x.stop).reshape(bottom - top, columns, bands)
        flat, stride = _flat(pixels)
        part = between[top - y.start : bottom - y.start].reshape(-1)
        kernels.across(flat, stride, columns, bands, x.starts, x.taps, part)
    found = np.empty((IMAGE_SIZE, bands, IMAGE_SIZE), np.uint8)
    kernels.down(between.reshape(-1), width, y.starts, y.taps, found.reshape(-1))
    return np.ascontiguousarray(found.transpose(0, 2, 1))


def resize_kept(
    image: Image.Image, resized: tuple[int, int], corner: tuple[int, int]
) -> Image.Image:
    """The same by Pillow, of a long image in any mode: resizes only what the crop keeps.

    An axis at a time in Pillow's order for the whole image, since it rounds after each. Positions
    are rounded otherwise than in the whole image, which changes the sums by 1 at times.
    """
    from PIL.Image import Resampling

    if image.mode in PREMULTIPLIED:  # as Pillow does, but once for both axes
        whole = image.convert(PREMULTIPLIED[image.mode])
        return resize_kept(whole, resized, corner).convert(image.mode)
    width, height = image.size
    scale = max(image.size) / max(resized)
    start, stop = sum(corner) * scale, (sum(corner) + IMAGE_SIZE) * scale
    square, bicubic = (IMAGE_SIZE, IMAGE_SIZE), Resampling.BICUBIC
    if width > height:
        return image.resize(square, bicubic, box=(start, 0, stop, height))
    if is_vertical_first(image.size, resized):
        rows = image.resize((width, IMAGE_SIZE), bicubic, box=(0, start, width, stop))
        return rows.resize(square, bicubic)
    reach = math.ceil(SUPPORT * max(scale, 1)) + 1
    first, last = max(int(start) - reach, 0), min(math.ceil(stop) + reach, height)
    part = image.crop((0, first, width, last)).resize((IMAGE_SIZE, last - first), bicubic)
    return part.resize(square, bicubic, box=(0, start - first, IMAGE_SIZE, stop - first))


def takes(size: tuple[int, int]) -> bool:
    """Whether an image of this (width, height) is resized here as Pillow would, and sooner."""
    width, height = size
    return min(size) >= LARGE and height <= TALLEST * width and equals_pillow()


def equals_pillow() -> bool:
    """Whether the kernels are to be had and give this Pillow's bits."""
    return unused_because() is None


def unused_because() -> str | None:
    """Why the kernels are not used, None where they are; tried once, on noise."""
    with _trying:  # others wait, instead of compiling as well
        if _broken_off:
            return "the process was forked while they were compiled"
        return _failure()


@lru_cache(maxsize=1)
def _failure() -> str | None:
    from PIL import Image

    random = np.random.default_rng(0)
    try:
        for width, height, bands in (
            (500, LARGE, 3),
            (LARGE, int(TALLEST * LARGE), 3),
            (500, LARGE, 1),
        ):
            pixels = random.integers(0, 256, (height, width, bands), dtype=np.uint8)
            size, resized = (width, height), (width // 2, height // 2)
            left, top = (resized[0] - IMAGE_SIZE) // 2, (resized[1] - IMAGE_SIZE) // 2
            found = resize_and_crop(rows_of(pixels), size, size, resized, (left, top), bands)
            whole = Image.fromarray(pixels.squeeze()).resize(resized, Image.Resampling.BICUBIC)
            expected = np.asarray(whole)[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
            if not np.array_equal(found.squeeze(), expected):
                return "their pixels are not those of the installed Pillow"
    except Exception as error:  # no numba, or one at odds with numpy or with this machine
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


@lru_cache(maxsize=1)
def _kernels() -> ModuleType:
    from aesthetic_client import _kernels

    return _kernels


def _after_fork() -> None:
    """In a child: the lock may be held by a thread that is not here, and so may numba's own be."""
    global _trying, _broken_off
    _broken_off = _broken_off or (_trying.locked() and not _failure.cache_info().currsize)
    _trying = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def is_vertical_first(size: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether Pillow resizes an image of this (width, height) vertically before horizontally."""
    width, height = size
    return height > 2 * width and resized[1] < height and _turns_tall_images()


@lru_cache(maxsize=1)
def _turns_tall_images() -> bool:
    """Whether this Pillow is 13 or has its order (see TALLEST); tried once, on noise."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (120, 40), dtype=np.uint8)
    image, bicubic = Image.fromarray(noise), Image.Resampling.BICUBIC
    found = image.resize((20, 60), bicubic)
    return found == image.resize((40, 60), bicubic).resize((20, 60), bicubic)


def rows_of(pixels: NDArray[np.uint8]) -> Read:
    """Reads an array of (height, width, bands)."""
    return lambda top, bottom, left, right: pixels[top:bottom, left:right]


def _flat(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """(rows, columns, bands) as one run of bytes, and those from one row to the next.

    A copy only where bytes of a row lie apart or in another order.
    """
    rows, columns, bands = pixels.shape
    if pixels.strides[1:] != (bands, 1) or pixels.strides[0] < columns * bands:
        pixels = np.ascontiguousarray(pixels)
    stride = pixels.strides[0]
    run = ((rows - 1) * stride + columns * bands,)
    return np.lib.stride_tricks.as_strided(pixels, run, (1,), writeable=False), stride


@lru_cache(maxsize=32)
def _axis(size: int, extent: float, resized: int, first: int, group: int) -> Axis:
    """Outputs first : first + IMAGE_SIZE of the first `extent` of `size` pixels, resized.

    Taps are a multiple of `group`.
    """
    # Each operation in Pillow's order, so that every coefficient rounds as its own does.
    scale = extent / resized
    support = SUPPORT * scale
    centers = (np.arange(first, first + IMAGE_SIZE) + 0.5) * scale
    starts = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    stops = np.minimum((centers + support + 0.5).astype(np.int64), size)
    at = starts[:, None] + np.arange((stops - starts).max())
    weights = np.where(
        at < stops[:, None], _bicubic((at - centers[:, None] + 0.5) * (1.0 / scale)), 0.0
    )
    weights /= np.cumsum(weights, axis=1)[:, -1:]
    taps = (np.where(weights < 0, -0.5, 0.5) + weights * ONE).astype(np.int32)
    taps = np.pad(taps, ((0, 0), (0, -taps.shape[1] % group)))
    start = int(starts[0])
    return Axis(starts - start, taps, start, int(stops.max()))


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """R. Keys' cubic convolution (1981) with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
