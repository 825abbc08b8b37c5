"""Sums of 8-bit pixels times 22-bit coefficients as Pillow makes them, compiled by numba.

Pillow's `src/libImaging/Resample.c` (`ImagingResampleHorizontal_8bpc`, `..Vertical_8bpc`): 32-bit
sums, half a unit added, shifted right, clamped. Integer sums may be made in any order, so that here
three planes share each coefficient, which is what compilers turn into vector instructions best.

Imported where it is first needed, by `_resample`: numba (the `kernels` extra) takes a while, and
may not be there. What is compiled is kept in `$NUMBA_CACHE_DIR`, else in this project's cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
from numba import config, njit, types
from numpy.typing import NDArray

from aesthetic_client.paths import cache_dir

if config.DISABLE_JIT:  # as Python, minutes an image
    raise ImportError("numba compiles nothing: NUMBA_DISABLE_JIT is set")

PRECISION_BITS = 22  # Pillow's: 32 less 8 of a pixel and 2 that sums may overshoot by
HALF = np.int32(1 << (PRECISION_BITS - 1))
SHIFT = np.int32(PRECISION_BITS)
LOWEST, HIGHEST = np.int32(0), np.int32(255)
# Indices are unsigned, since those that may be negative keep loops from becoming vectors. And each
# product is made 32 bits again: numba's are 64, which halves the speed.
At = np.uint64
PLANES = 3

LANES = 8  # taps a group: the narrowest vectors; at 16 or without groups all sizes were slower

_PIXELS = types.Array(types.uint8, 1, "C", readonly=True)
_STARTS, _TAPS = types.int64[::1], types.int32[:, ::1]
_OUT = types.uint8[::1]
_Kernel = Callable[..., None]


def _compiled(*parameters: Any) -> Callable[[_Kernel], Any]:
    """Compiles a function for these types, or loads what was compiled before."""
    signature = types.void(*parameters)

    def compiled(function: _Kernel) -> Any:
        found = njit(nogil=True)(function)
        try:
            _keep(found)
            try:
                found.compile(signature)
            except Exception:  # a broken file, which numba leaves where it is
                found._cache.flush()
                found.compile(signature)
        except Exception:  # no folder to write to, a full disk
            found._cache.disable()
            found.compile(signature)
        found.disable_compile()
        return found

    return compiled


def _keep(dispatcher: Any) -> None:
    """Keep what it compiles in a folder of this CPU's. Raises OSError where that cannot be written.

    Of two kinds of CPUs that share one folder, numba may file one's code under the other's name:
    each chooses a number for its file, then writes the file and, apart from it, the index.
    """
    cpu = sha256(repr(dispatcher.targetctx.codegen().magic_tuple()).encode()).hexdigest()[:16]
    chosen = config.CACHE_DIR
    folder = os.path.join(chosen or cache_dir() / "numba", cpu)
    os.makedirs(folder, exist_ok=True)
    config.CACHE_DIR = folder
    try:
        dispatcher.enable_caching()
    finally:
        config.CACHE_DIR = chosen
    if not dispatcher.stats.cache_path.startswith(folder):  # numba looked for another one
        raise OSError(f"{folder} cannot be written to")


def _helper(function: _Kernel) -> _Kernel:
    """Compiled as a part of what calls it."""
    found: _Kernel = njit(nogil=True, no_cpython_wrapper=True)(function)
    return found


@_helper
def _spread(pixels: Any, first: Any, width: Any, planes: Any, pitch: Any) -> None:
    """A row of RGB into three planes."""
    for x in range(width):
        at, to = At(first) + At(3) * At(x), At(x)
        planes[to] = pixels[at]
        planes[to + At(pitch)] = pixels[at + At(1)]
        planes[to + At(2) * At(pitch)] = pixels[at + At(2)]


@_helper
def _copy(pixels: Any, first: Any, width: Any, planes: Any, to: Any) -> None:
    for x in range(width):
        planes[At(to) + At(x)] = pixels[At(first) + At(x)]


@_helper
def _dot(planes: Any, pitch: Any, starts: Any, taps: Any, groups: Any, sums: Any) -> None:
    """The sums of each plane, one plane's after the other's; `groups` of LANES taps each."""
    outputs = starts.shape[0]
    length = At(groups) * At(LANES)  # which the compiler sees to be a multiple
    for output in range(outputs):
        first, tap = At(starts[At(output)]), At(output) * length
        second = first + At(pitch)
        third = second + At(pitch)
        a, b, c = np.int32(0), np.int32(0), np.int32(0)
        for i in range(length):
            weight = taps[tap + At(i)]
            a = np.int32(a + np.int32(np.int32(planes[first + At(i)]) * weight))
            b = np.int32(b + np.int32(np.int32(planes[second + At(i)]) * weight))
            c = np.int32(c + np.int32(np.int32(planes[third + At(i)]) * weight))
        sums[At(output)] = a
        sums[At(output) + At(outputs)] = b
        sums[At(output) + At(2) * At(outputs)] = c


@_helper
def _round(sums: Any, count: Any, out: Any, first: Any) -> None:
    for i in range(count):
        value = np.int32(np.int32(sums[At(i)] + HALF) >> SHIFT)
        out[At(first) + At(i)] = np.uint8(min(max(value, LOWEST), HIGHEST))


@_helper
def _add(sums: Any, pixels: Any, first: Any, weight: Any) -> None:
    for i in range(sums.shape[0]):
        product = np.int32(np.int32(pixels[At(first) + At(i)]) * weight)
        sums[At(i)] = np.int32(sums[At(i)] + product)


@_compiled(_PIXELS, types.int64, types.int64, types.int64, _STARTS, _TAPS, _OUT)
def across(
    pixels: NDArray[np.uint8],
    stride: int,
    width: int,
    bands: int,
    starts: NDArray[np.int64],
    taps: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> None:
    """Rows of `width` pixels, `stride` bytes apart, of 3 interleaved bands or 1: as many as `out`
    holds of (bands, outputs) each. Taps are a multiple of LANES; zeros may pass a row's end."""
    outputs, length = taps.shape
    pitch = width + length
    planes = np.zeros(PLANES * pitch, np.uint8)
    sums = np.empty(PLANES * outputs, np.int32)
    flat = taps.reshape(-1)
    rows = out.shape[0] // (bands * outputs)
    for row in range(0, rows, PLANES // bands):  # of greyscale, three rows are the planes
        if bands == PLANES:
            done = PLANES
            _spread(pixels, row * stride, width, planes, pitch)
        else:
            done = min(PLANES, rows - row)
            for plane in range(done):
                _copy(pixels, (row + plane) * stride, width, planes, plane * pitch)
        _dot(planes, pitch, starts, flat, length // LANES, sums)
        _round(sums, done * outputs, out, row * bands * outputs)


@_compiled(_PIXELS, types.int64, _STARTS, _TAPS, _OUT)
def down(
    rows: NDArray[np.uint8],
    width: int,
    starts: NDArray[np.int64],
    taps: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> None:
    """Columns of `rows`, `width` bytes each, into `out`: (outputs, width)."""
    outputs, length = taps.shape
    height = rows.shape[0] // width
    sums = np.empty(width, np.int32)
    for output in range(outputs):
        sums[:] = 0
        first = starts[output]
        for i in range(min(length, height - first)):
            _add(sums, rows, (first + i) * width, taps[output, i])
        _round(sums, width, out, output * width)
