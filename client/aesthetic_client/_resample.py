"""Pillow's bicubic resize and a crop in one, bit for bit, without the work that the crop discards.

What Pillow does (its `src/libImaging/Resample.c`): horizontally, then vertically, each output is a
sum of 8-bit pixels times coefficients that were rounded to 22 fractional bits, itself rounded to 8
bits. Here the same integer coefficients go through single-precision matrix products of 16 outputs
each (BLAS, which frees the GIL). Such a sum is off by n * 2^-24 * sum |product| at most (n
terms in any order, with or without fused multiply-adds: N. J. Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1). An output further than that from where rounding flips is
therefore Pillow's; the others, one in a thousand, are summed again in integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

PRECISION_BITS = 22  # Pillow's: 32 less 8 of a pixel and 2 that sums may overshoot by
ONE = 1 << PRECISION_BITS
SUPPORT = 2.0  # of the bicubic filter, in output pixels
BLOCK = 16  # outputs a product: one AVX-512 register of floats
# Multiplications a product: OpenBLAS stays on one thread up to the first, and with AVX-512 up to
# 10^6 (its `gemm.c` and `sgemm_small_kernel_permit_skylakex.c`). Fewer, larger products cost less.
MAX_PRODUCT, MAX_PRODUCT_AVX512 = 1 << 18, 1 << 19
MAX_ROWS = 256
PREMULTIPLIED = {"RGBA": "RGBa", "LA": "La"}  # Pillow's modes: with alpha, to be resized
FLOOD = 64  # one doubtful output in so many: cheaper to sum them all in double precision


@dataclass(frozen=True)
class Axis:
    """One direction: output i is sum(taps[i] * pixels[starts[i]:]) / ONE; pixels are start:stop."""

    starts: NDArray[np.int64]  # of each output's first pixel, from `start`
    taps: NDArray[np.int64]  # (outputs, n), zeros after an output's last
    start: int
    stop: int
    error: float  # of a single-precision sum


@dataclass(frozen=True)
class Products:
    """An axis as matrices: output block b is inputs[reads[b] : reads[b] + K] @ matrices[b]."""

    reads: list[int]
    matrices: NDArray[np.float32]  # (blocks, K, BLOCK)


def resize_and_crop(
    read: Read,
    size: tuple[int, int],
    extent: tuple[float, float],
    resized: tuple[int, int],
    corner: tuple[int, int],
    bands: int,
) -> NDArray[np.uint8]:
    """`resize(resized, BICUBIC, (0, 0, *extent)).crop(square at corner)`: uint8 (224, 224, bands).

    `size`, `extent` and `resized` are (width, height), `corner` is (left, top). For downscaling.
    """
    across = (size[0], extent[0], resized[0], corner[0])
    down = (size[1], extent[1], resized[1], corner[1])
    x, y = _axis(*across), _axis(*down)
    products = _products(*across, bands)
    columns = (x.stop - x.start) * bands
    step = _rows_a_product(products)
    rows = np.empty((step, columns), np.float32)
    between = np.empty((y.stop - y.start, IMAGE_SIZE * bands), np.float32)
    for top in range(y.start, y.stop, step):
        bottom = min(top + step, y.stop)
        part = rows[: bottom - top]
        part[...] = read(top, bottom, x.start, x.stop).reshape(len(part), columns)
        _convolve(part, x, products, bands, between[top - y.start : bottom - y.start])
    found = np.empty((IMAGE_SIZE * bands, IMAGE_SIZE), np.float32)
    products = _products(*down, 1)
    step = _rows_a_product(products)
    for top in range(0, len(found), step):
        _convolve(between.T[top : top + step], y, products, 1, found[top : top + step])
    pixels = found.astype(np.uint8).reshape(IMAGE_SIZE, bands, IMAGE_SIZE)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


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


@lru_cache(maxsize=1)
def equals_pillow() -> bool:
    """Whether this Pillow and this BLAS give the same bits here; tried once, on noise."""
    from PIL import Image

    random = np.random.default_rng(0)
    for width, height in ((500, LARGE), (LARGE, int(TALLEST * LARGE))):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        resized = (width // 2, height // 2)
        left, top = (resized[0] - IMAGE_SIZE) // 2, (resized[1] - IMAGE_SIZE) // 2
        expected = np.asarray(Image.fromarray(pixels).resize(resized, Image.Resampling.BICUBIC))
        size = (width, height)
        found = resize_and_crop(rows_of(pixels), size, size, resized, (left, top), 3)
        if not np.array_equal(found, expected[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]):
            return False
    return True


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


@lru_cache(maxsize=32)
def _axis(size: int, extent: float, resized: int, first: int) -> Axis:
    """Outputs first : first + IMAGE_SIZE of the first `extent` of `size` pixels, resized."""
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
    taps = (np.where(weights < 0, -0.5, 0.5) + weights * ONE).astype(np.int64)
    terms = taps.shape[1] * 2.0**-24
    error = terms / (1 - terms) * 255 * int(np.abs(taps).sum(axis=1).max()) / ONE
    start = int(starts[0])
    return Axis(starts - start, taps, start, int(stops.max()), error)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """R. Keys' cubic convolution (1981) with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=8)
def _products(size: int, extent: float, resized: int, first: int, bands: int) -> Products:
    """The axis for pixels of interleaved bands, each band with the same coefficients."""
    axis = _axis(size, extent, resized, first)
    taps = axis.taps.shape[1]
    outputs = np.arange(IMAGE_SIZE * bands).reshape(-1, BLOCK)
    of_pixel, band = outputs // bands, outputs % bands
    begins = axis.starts[of_pixel[:, 0]] * bands
    inputs = (axis.stop - axis.start) * bands
    ends = np.minimum((axis.starts[of_pixel[:, -1]] + taps) * bands, inputs)
    rows = int((ends - begins).max())
    reads = np.minimum(begins, inputs - rows)
    # Zeros after an output's last coefficient may lie beyond the inputs: room for them, then a cut.
    matrices = np.zeros((len(outputs), rows + taps * bands, BLOCK), np.float32)
    at = (axis.starts[of_pixel] * bands + band - reads[:, None])[..., None] + bands * np.arange(
        taps
    )
    block, column = np.ogrid[: len(outputs), :BLOCK]
    matrices[block[..., None], at, column[..., None]] = axis.taps[of_pixel] / ONE
    return Products(reads.tolist(), matrices[:, :rows])


def _convolve(
    inputs: NDArray[np.float32],
    axis: Axis,
    products: Products,
    bands: int,
    out: NDArray[np.float32],
) -> None:
    """Each row of inputs along the axis into `out`, rounded to whole numbers 0 to 255."""
    _multiply(inputs, products, out)
    rounded = np.rint(out)
    np.subtract(out, rounded, out=out)
    np.abs(out, out=out)
    # 1e-6: what the comparison itself rounds. Exact halves, which `rint` rounds to even, are in it.
    doubtful = np.flatnonzero(out > 0.5 - axis.error - 1e-6)
    if len(doubtful) * FLOOD > out.size:
        sums = np.empty(out.shape)  # 53 bits: exact
        _multiply(inputs.astype(np.float64), products, sums)
        rounded[...] = np.floor(sums + 0.5)
    elif len(doubtful):
        rounded.reshape(-1)[doubtful] = _exactly(inputs, axis, bands, doubtful)
    if rounded.min() < 0 or rounded.max() > 255:  # to look costs a quarter of doing it
        np.clip(rounded, 0, 255, out=rounded)
    out[...] = rounded


def _rows_a_product(products: Products) -> int:
    most = MAX_PRODUCT_AVX512 if _has_avx512() else MAX_PRODUCT
    return max(1, min(MAX_ROWS, most // (products.matrices.shape[1] * BLOCK)))


@lru_cache(maxsize=1)
def _has_avx512() -> bool:
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return False


def _multiply(
    inputs: NDArray[np.floating[Any]], products: Products, out: NDArray[np.floating[Any]]
) -> None:
    rows = products.matrices.shape[1]
    for block, begin in enumerate(products.reads):
        np.matmul(
            inputs[:, begin : begin + rows],
            products.matrices[block].astype(inputs.dtype, copy=False),
            out=out[:, block * BLOCK : (block + 1) * BLOCK],
        )


def _exactly(
    inputs: NDArray[np.float32], axis: Axis, bands: int, outputs: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The outputs of these flat positions by integer sums, as Pillow computes them."""
    row, output = np.divmod(outputs, IMAGE_SIZE * bands)
    pixel, band = np.divmod(output, bands)
    at = axis.starts[pixel, None] + np.arange(axis.taps.shape[1])
    # Zeros may reach beyond the last pixel.
    at = np.minimum(at, axis.stop - axis.start - 1) * bands + band[:, None]
    terms = inputs[row[:, None], at].astype(np.int64) * axis.taps[pixel]
    sums: NDArray[np.int64] = terms.sum(axis=1)
    return (sums + ONE // 2) >> PRECISION_BITS
