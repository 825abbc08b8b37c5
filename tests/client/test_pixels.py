"""The pixels equal the reference's own, bit for bit."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from aesthetic_client import _resample
from aesthetic_client.errors import InputError
from aesthetic_client.pixels import (
    CLIP_MEAN,
    CLIP_STD,
    EXACT_ASPECT,
    PixelOptions,
    pixels_from_image,
    prepare_pixels,
)
from generated_images import encoded, generated, texture

CASES = dict(generated())
Reference = Callable[[Image.Image], np.ndarray]


@pytest.fixture(scope="module")
def reference() -> Reference:
    """open_clip's own transform up to ToTensor."""
    from aesthetic_export.openclip import open_clip_transformer

    open_clip_transformer()
    from open_clip.transform import image_transform

    transform = image_transform(224, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    steps = transform.transforms
    assert [type(step).__name__ for step in steps[-2:]] == ["MaybeToTensor", "Normalize"]

    def pixels(image: Image.Image) -> np.ndarray:
        for step in steps[:-2]:
            image = step(image)
        return np.asarray(image)

    return pixels


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", CASES)
def test_generated_images_equal_the_reference(name: str, reference: Reference) -> None:
    data = CASES[name]
    expected = reference(Image.open(io.BytesIO(data)))
    assert np.array_equal(prepare_pixels(data), expected)
    assert np.array_equal(pixels_from_image(Image.open(io.BytesIO(data))), expected)


def test_photographs_equal_the_reference(photographs: list[Path], reference: Reference) -> None:
    for path in photographs:
        pixels = prepare_pixels(path.read_bytes())
        assert pixels.dtype == np.uint8 and pixels.shape == (224, 224, 3)
        assert np.array_equal(pixels, reference(Image.open(path))), path.name


def test_converting_to_rgb_first_would_give_other_pixels() -> None:
    """The trap that the reference's order avoids, so that the comparison above means something."""
    different = 0
    for data in CASES.values():
        image = Image.open(io.BytesIO(data))
        if image.mode in ("P", "1", "RGBA"):
            first = pixels_from_image(image.convert("RGBA").convert("RGB"))
            different += not np.array_equal(prepare_pixels(data), first)
    assert different >= 4


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "1"])
@pytest.mark.parametrize(
    "size", [(3, 400), (400, 3), (5, 33), (2, 131), (13, 1680), (7, 997), (260, 17_000)]
)
def test_longer_than_exact_differs_by_two_at_most(
    mode: str, size: tuple[int, int], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aesthetic_client.pixels.EXACT_ASPECT", 4)
    assert EXACT_ASPECT == 64
    noise = np.random.default_rng(0).integers(0, 2, (size[1], size[0], 3), dtype=np.uint8) * 255
    image = Image.fromarray(noise).convert(mode)
    different = np.abs(pixels_from_image(image.copy()).astype(int) - reference(image).astype(int))
    if mode in ("P", "1"):  # the nearest pixel, of which a tie may fall to either side
        assert (different > 0).mean() < 0.005
    else:
        assert different.max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("size", [(13, 1680), (1680, 13), (260, 17_000)])
def test_longer_than_exact_with_alpha_differs_where_alpha_is_small(
    mode: str, size: tuple[int, int], reference: Reference
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    different = np.abs(pixels_from_image(image.copy()).astype(int) - reference(image).astype(int))
    assert (different > 2).mean() < 0.01
    opaque = image.convert("RGB").convert(mode)
    ours = pixels_from_image(opaque.copy()).astype(int)
    assert np.abs(ours - reference(opaque).astype(int)).max() <= 2


@pytest.mark.parametrize("turns", [True, False])
def test_the_order_of_the_axes_is_found_out(turns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Pillow does not turn tall images, nothing is vertically first."""
    monkeypatch.setattr(_resample, "_turns_tall_images", lambda: turns)
    assert _resample.is_vertical_first((225, 500), (224, 497)) is turns
    for size, resized in (((300, 600), (224, 448)), ((100, 250), (224, 560))):
        assert not _resample.is_vertical_first(size, resized)


def test_this_pillows_order_is_known() -> None:
    rows = np.random.default_rng(0).integers(0, 2, (900, 300), dtype=np.uint8) * 255
    image, bicubic = Image.fromarray(rows), Image.Resampling.BICUBIC
    vertical = image.resize((300, 672), bicubic).resize((224, 672), bicubic)
    horizontal = image.resize((224, 900), bicubic).resize((224, 672), bicubic)
    assert vertical != horizontal
    first = vertical if _resample.is_vertical_first((300, 900), (224, 672)) else horizontal
    assert image.resize((224, 672), bicubic) == first


def test_exif_orientation_is_ignored_unless_asked_for() -> None:
    turned = CASES["exif-6.jpg"]
    ignored = prepare_pixels(turned)
    applied = prepare_pixels(turned, PixelOptions(apply_exif_orientation=True))
    assert np.array_equal(ignored, prepare_pixels(CASES["exif-1.jpg"]))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(turned)))
    assert np.array_equal(applied, pixels_from_image(upright))
    assert not np.array_equal(applied, ignored)


def test_options_come_from_config_parameters() -> None:
    assert PixelOptions.from_parameters({}) == PixelOptions()
    assert PixelOptions.from_parameters(
        {
            "formats": "png, gif",
            "max_pixels": "9",
            "max_decode_ms": "8",
            "exif_orientation": "apply",
        }
    ) == PixelOptions(("PNG", "GIF"), 9, 8, True)
    for bad in ({"max_pixels": "many"}, {"exif_orientation": "yes"}):
        with pytest.raises(InputError, match="preprocess parameters"):
            PixelOptions.from_parameters(bad)


def test_a_format_is_read_when_it_is_let_in() -> None:
    gif = encoded(Image.fromarray(texture(30, 30, 3)).quantize(16), "GIF")
    assert prepare_pixels(gif, PixelOptions(formats=("GIF",))).shape == (224, 224, 3)
