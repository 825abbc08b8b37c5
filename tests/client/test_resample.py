"""The resize of large images equals Pillow's in every bit, whatever they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from aesthetic_client import _resample
from aesthetic_client.pixels import pixels_from_image
from generated_images import texture

Pixels = np.ndarray[Any, Any]
SIZES = [
    *((448, 448), (449, 448), (448, 600), (600, 451), (1023, 767), (767, 1023), (1300, 450)),
    *((600, 1140), (600, 1141), (451, 2000), (1600, 1200), (2400, 500)),
]


def pillow(image: Image.Image) -> Pixels:
    """The transform in a few lines, all of it by Pillow."""
    width, height = image.size
    short = min(width, height)
    size = (224 * width // short, 224 * height // short)
    left, top = (round((side - 224) / 2) for side in size)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + 224, top + 224)).convert("RGB"))


def contents(width: int, height: int, channels: int) -> list[Pixels]:
    random = np.random.default_rng(width)
    shape = (height, width, channels)
    return [
        texture(width, height, channels, seed=1),
        random.integers(0, 256, shape, dtype=np.uint8),
        random.integers(0, 2, shape, dtype=np.uint8) * 255,  # overshoots both ends
        np.full(shape, 255, np.uint8),
    ]


@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_equals_pillow(
    size: tuple[int, int], avx512: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_resample, "_has_avx512", lambda: avx512)
    for channels in (3, 1):
        for array in contents(*size, channels):
            image = Image.fromarray(array.squeeze())
            assert np.array_equal(pixels_from_image(image), pillow(image)), image.mode


def test_doubtful_sums_are_settled_in_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of them, one by one."""
    settled = []
    exactly = _resample._exactly

    def counted(inputs: Pixels, *arguments: Any) -> Pixels:
        settled.append((len(arguments[-1]), len(inputs) * 672))
        return exactly(inputs, *arguments)

    monkeypatch.setattr(_resample, "_exactly", counted)
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (2400, 2400, 3), np.uint8))
    assert np.array_equal(pixels_from_image(image), pillow(image))
    doubtful, sums = (sum(column) for column in zip(*settled, strict=True))
    assert 0 < doubtful < 0.005 * sums


def test_a_flood_of_exact_halves_is_summed_in_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes of 100 and 101 at a scale of two: every sum is 100.5, or one part in 2^22 less."""
    monkeypatch.setattr(_resample, "_exactly", None)
    stripes = np.full((448, 448, 3), 100, np.uint8)
    stripes[:, ::2] += 1
    for array in (stripes, stripes.transpose(1, 0, 2).copy()):
        image = Image.fromarray(array)
        found = pixels_from_image(image)
        assert np.array_equal(found, pillow(image))
        assert set(np.unique(found)) <= {100, 101}


def test_the_error_bound_holds_and_is_tight_enough_to_be_of_use() -> None:
    """Single-precision sums against exact ones, at the worst content: the largest products."""
    axis = _resample._axis(4000, 4000, 224, 0)
    products = _resample._products(4000, 4000, 224, 0, 3)
    random = np.random.default_rng(0)
    rows = random.integers(200, 256, (64, 12000)).astype(np.float32)
    single, double = np.empty((64, 672), np.float32), np.empty((64, 672))
    _resample._multiply(rows, products, single)
    _resample._multiply(rows.astype(np.float64), products, double)
    largest = np.abs(single - double).max()
    assert 0 < largest < axis.error < 0.002
    taps = axis.taps[100]
    exact = sum(int(tap) * int(rows[0, 3 * (axis.starts[100] + i)]) for i, tap in enumerate(taps))
    assert double[0, 300] == exact / 2**22


def test_where_it_would_not_equal_pillow_pillow_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(texture(700, 500, 3))
    expected = pillow(image)
    assert _resample.equals_pillow()
    assert not _resample.takes((500, 951))  # tall ones, whose order of passes is Pillow's own
    monkeypatch.setattr(_resample, "ONE", 1 << 12)  # coarser coefficients than Pillow's
    for cached in (_resample._axis, _resample._products, _resample.equals_pillow):
        cached.cache_clear()
    try:
        assert not _resample.equals_pillow()
        assert np.array_equal(pixels_from_image(image), expected)
    finally:
        monkeypatch.undo()
        for cached in (_resample._axis, _resample._products, _resample.equals_pillow):
            cached.cache_clear()
