"""`fast` is off by default, says that it is on, and changes large JPEGs alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from aesthetic_client import _jpeg
from aesthetic_client.errors import InputError
from aesthetic_client.pixels import (
    FAST_PREPROCESSING_ID,
    PREPROCESSING_ID,
    PixelOptions,
    pixels_from_image,
    prepare_pixels,
)
from generated_images import encoded, texture

FAST = PixelOptions(mode="fast")
LARGE = Image.fromarray(texture(1400, 900, 3))
JPEG = encoded(LARGE, "JPEG", quality=92)


def test_it_carries_an_id_of_its_own() -> None:
    assert PixelOptions().mode == "exact"
    assert PixelOptions().preprocessing_id == PREPROCESSING_ID
    assert FAST.preprocessing_id == FAST_PREPROCESSING_ID != PREPROCESSING_ID
    with pytest.raises(InputError, match='mode must be "exact" or "fast", got \'faster\''):
        PixelOptions(mode="faster")  # type: ignore[arg-type]


def test_a_large_jpeg_is_decoded_at_half_the_size() -> None:
    """Independently: Pillow's draft, then the reference's resize and crop of what it gives."""
    draft = Image.open(io.BytesIO(JPEG))
    draft.draft("RGB", (700, 450))
    assert draft.size == (700, 450)
    resized = draft.resize((348, 224), Image.Resampling.BICUBIC)
    expected = np.asarray(resized.crop((62, 0, 286, 224)))
    fast, exact = prepare_pixels(JPEG, FAST), prepare_pixels(JPEG)
    assert np.array_equal(fast, expected)
    difference = np.abs(fast.astype(int) - exact)
    assert 0 < difference.mean() < 2


def test_a_last_pixel_that_is_half_a_pixel_counts_half() -> None:
    data = encoded(LARGE.crop((0, 0, 1399, 899)), "JPEG", quality=92)
    draft = Image.open(io.BytesIO(data))
    draft.draft("RGB", (699, 449))
    assert draft.size == (700, 450)
    box = (0, 0, 699.5, 449.5)
    resized = draft.resize((348, 224), Image.Resampling.BICUBIC, box=box)
    assert np.array_equal(prepare_pixels(data, FAST), np.asarray(resized.crop((62, 0, 286, 224))))


def test_it_needs_no_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = encoded(LARGE.convert("L"), "JPEG")
    expected = [prepare_pixels(data, FAST) for data in (JPEG, grey)]
    monkeypatch.setattr(_jpeg, "_simplejpeg", lambda: None)
    for data, pixels in zip((JPEG, grey), expected, strict=True):
        assert np.array_equal(prepare_pixels(data, FAST), pixels)


@pytest.mark.parametrize(
    ("kind", "size"), [("PNG", (1400, 900)), ("WEBP", (1400, 900)), ("JPEG", (1400, 895))]
)
def test_other_formats_and_small_jpegs_stay_exact(kind: str, size: tuple[int, int]) -> None:
    data = encoded(LARGE.crop((0, 0, *size)), kind)
    assert np.array_equal(prepare_pixels(data, FAST), prepare_pixels(data))


@pytest.mark.parametrize("size", [(900, 1400), (1797, 901), (1801, 4000), (3600, 3601)])
def test_the_crop_is_that_of_the_whole_image(size: tuple[int, int]) -> None:
    """Odd sizes, every reduction: a shift by one output pixel would show as far more."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    smooth = Image.fromarray(np.stack([x, y, (x + y) / 2], -1).astype(np.uint8))
    data = encoded(smooth, "JPEG", quality=98, subsampling=0)
    difference = np.abs(prepare_pixels(data, FAST).astype(int) - prepare_pixels(data))
    assert difference.max() <= 2


def test_orientation_is_applied_after_the_reduction() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(LARGE, "JPEG", exif=exif)
    found = prepare_pixels(turned, PixelOptions(apply_exif_orientation=True, mode="fast"))
    upright = pixels_from_image(ImageOps.exif_transpose(Image.open(io.BytesIO(turned))))
    assert found.shape == upright.shape
    assert 0 < np.abs(found.astype(int) - upright).mean() < 2


@pytest.mark.parametrize("orientation", [3, 8])
def test_half_a_pixel_that_is_turned_shifts_nothing(orientation: int) -> None:
    """At an eighth 3594 pixels are 449.25: such an image is decoded whole. 3592 are 449."""
    small = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((3594, 3598), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for size, reduced in (((3594, 3598), False), ((3592, 3592), True)):
        data = encoded(picture.crop((0, 0, *size)), "JPEG", exif=exif)
        exact = prepare_pixels(data, PixelOptions(apply_exif_orientation=True))
        fast = prepare_pixels(data, PixelOptions(apply_exif_orientation=True, mode="fast"))
        difference = np.abs(fast.astype(int) - exact)
        assert difference.any() == reduced and difference.mean() < 1
