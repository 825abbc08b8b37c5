"""The resize of large images equals Pillow's in every bit, whatever they hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aesthetic_client import _resample
from aesthetic_client.pixels import pixels_from_image, warm_up
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
        np.broadcast_to(255 * (np.indices(shape[:2]).sum(0) % 2)[..., None], shape).astype(
            np.uint8
        ),
    ]


@pytest.fixture
def afresh() -> Iterator[None]:
    """What was tried and computed before is forgotten, before and after."""
    cached = (_resample._axis, _resample._failure)
    for one in cached:
        one.cache_clear()
    yield
    for one in cached:
        one.cache_clear()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_equals_pillow(size: tuple[int, int]) -> None:
    assert _resample.equals_pillow()
    for channels in (3, 1):
        for array in contents(*size, channels):
            image = Image.fromarray(array.squeeze())
            assert np.array_equal(pixels_from_image(image), pillow(image)), image.mode


def test_any_part_of_any_memory_equals_pillow() -> None:
    """Sizes, crops, part pixels at the end, and rows that are further apart than they are long.

    One scale for both axes, as everywhere here: with others Pillow 13 may turn its order of axes.
    """
    random = np.random.default_rng(7)
    for _ in range(40):
        width, height = (int(side) for side in random.integers(448, 800, 2))
        bands, margin = int(random.choice([1, 3])), int(random.integers(0, 9))
        memory = random.integers(0, 256, (height + 3, width + margin, bands), np.uint8)
        pixels = memory[2 : 2 + height, margin : margin + width]
        extent = (width - random.choice([0, 0.125, 0.5]), height - random.choice([0, 0.75]))
        scale = random.uniform(1.5, min(width, height) / 224)
        resized = (int(width / scale), int(height / scale))
        left, top = (int(random.integers(0, side - 224 + 1)) for side in resized)
        whole = Image.fromarray(pixels.squeeze()).resize(
            resized, Image.Resampling.BICUBIC, box=(0, 0, *extent)
        )
        expected = np.asarray(whole).reshape(*resized[::-1], bands)[top:, left:][:224, :224]
        read = _resample.rows_of(pixels)
        found = _resample.resize_and_crop(
            read, (width, height), extent, resized, (left, top), bands
        )
        assert np.array_equal(found, expected), (width, height, extent, resized, left, top, bands)


@pytest.mark.parametrize("strip", [1, 5_000, 1 << 30])
def test_the_layout_in_memory_and_the_strips_read_do_not_matter(
    strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_resample, "STRIP", strip)
    for bands in (3, 1):
        pixels = np.random.default_rng(1).integers(0, 256, (500, 460, bands), np.uint8)
        expected = pillow(Image.fromarray(pixels.squeeze()))[..., :bands]
        layouts = (
            np.asfortranarray(pixels),
            pixels[::-1].copy()[::-1],
            pixels[..., ::-1].copy()[..., ::-1],
        )
        for layout in layouts:
            found = _resample.resize_and_crop(
                _resample.rows_of(layout), (460, 500), (460, 500), (224, 243), (0, 10), bands
            )
            assert np.array_equal(found, expected)


def test_sums_are_clamped_at_both_ends() -> None:
    """Bright and dark squares of three outputs each: what is not clamped passes 0 and 255."""
    squares = ((np.indices((672, 672)) // 9).sum(0) % 2 * 255).astype(np.uint8)
    unclamped = Image.fromarray(squares).convert("F")
    sums = np.asarray(unclamped.resize((224, 224), Image.Resampling.BICUBIC))
    assert sums.min() < -10 and sums.max() > 265
    image = Image.fromarray(np.repeat(squares[..., None], 3, axis=2))
    found = pixels_from_image(image)
    assert np.array_equal(found, pillow(image))
    assert np.isin([0, 255], found).all()


def test_exact_halves_are_rounded_as_pillow_rounds_them() -> None:
    """Stripes of 100 and 101 at a scale of two: every sum is 100.5, or one part in 2^22 less."""
    stripes = np.full((448, 448, 3), 100, np.uint8)
    stripes[:, ::2] += 1
    for array in (stripes, stripes.transpose(1, 0, 2).copy()):
        image = Image.fromarray(array)
        found = pixels_from_image(image)
        assert np.array_equal(found, pillow(image))
        assert set(np.unique(found)) <= {100, 101}


def test_a_part_that_is_smaller_than_asked_is_an_error() -> None:
    """The kernels look at no bounds."""
    pixels = np.zeros((500, 500, 3), np.uint8)
    arguments = ((500, 501), (500, 501), (224, 224), (0, 0), 3)
    with pytest.raises(ValueError, match="reshape"):
        _resample.resize_and_crop(_resample.rows_of(pixels), *arguments)


def test_where_it_would_not_equal_pillow_pillow_does_it(
    afresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(texture(700, 500, 3))
    expected = pillow(image)
    assert not _resample.takes((500, 951))  # tall ones, whose order of passes is Pillow's own
    monkeypatch.setattr(_resample, "ONE", 1 << 12)  # coarser coefficients than Pillow's
    assert warm_up() == "their pixels are not those of the installed Pillow"
    assert np.array_equal(pixels_from_image(image), expected)


def test_an_error_of_the_kernels_leaves_the_images_to_pillow(
    afresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(*arguments: Any) -> None:
        raise TypeError("no matching definition\nfor arguments")

    assert warm_up() is None
    _resample._failure.cache_clear()
    monkeypatch.setattr(_resample._kernels(), "across", across)
    assert warm_up() == "TypeError: no matching definition"
    image = Image.fromarray(texture(700, 500, 3))
    assert np.array_equal(pixels_from_image(image), pillow(image))


def test_threads_that_start_at_once_try_it_once(
    afresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, begin = [], threading.Barrier(4)
    resize = Image.Image.resize

    def counted(image: Image.Image, *arguments: Any) -> Image.Image:
        tried.append(image.size)
        return resize(image, *arguments)

    monkeypatch.setattr(Image.Image, "resize", counted)

    def ask(_: int) -> bool:
        begin.wait(10)
        return _resample.takes((1000, 1000))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))
    assert sorted(tried) == [(448, 851), (500, 448), (500, 448)]
