"""The differentiable resize against Pillow: equal in float, within a stated distance in 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aesthetic_client.contract import IMAGE_SIZE
from aesthetic_client.pixels import pixels_from_image
from aesthetic_guidance.resize import cubic, resize_and_crop, rounded_to_8bit
from generated_images import texture

SIZES = [  # width, height: both directions, both parities, shrinking and growing, extreme aspects
    *((1, 1), (1, 7), (7, 1), (2, 3), (223, 224), (225, 301), (500, 333), (333, 500), (640, 427)),
    *((227, 227), (1023, 767), (50, 3000), (3000, 50), (1, 64), (4, 256)),
    # Tall: from 2:1 on Pillow 13 shrinks vertically first; it grows as before.
    *((225, 500), (300, 600), (300, 601), (100, 250)),
]
UNCHANGED = [(224, 224), (225, 224), (224, 227), (448, 224), (231, 224)]


def tensor_of(image: Image.Image, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(1, C, H, W) in [0, 1]"""
    array = np.atleast_3d(np.asarray(image))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].to(dtype) / 255


def differences(image: Image.Image, **options: bool) -> np.ndarray:
    """Absolute, in units of /255, from the reference's 8-bit pixels."""
    ours = resize_and_crop(tensor_of(image), **options)[0].permute(1, 2, 0).numpy() * 255
    assert ours.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    return np.abs(ours - pixels_from_image(image).astype(np.float64))


def pillow_in_float(channel: np.ndarray) -> np.ndarray:
    """Pillow resizes mode F without rounding; clipped afterwards, and cropped as torchvision."""
    height, width = channel.shape
    size = [IMAGE_SIZE * side // min(height, width) for side in (width, height)]
    resized = Image.fromarray(channel.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - IMAGE_SIZE) / 2) for side in size)
    return np.asarray(resized)[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


@pytest.mark.parametrize("size", SIZES)
def test_it_is_pillows_resize_in_float(size):
    # Away from 0 and 255, so that nothing is clipped and the plain resize shows.
    array = texture(*size, 1)[..., 0] / 4 + 90
    ours = resize_and_crop(torch.from_numpy(array)[None, None] / 255)[0, 0].numpy() * 255
    np.testing.assert_allclose(ours, pillow_in_float(array), atol=2e-4)


@pytest.mark.parametrize("size", SIZES)
def test_generated_images_are_within_rounding_of_the_reference(size):
    found = differences(Image.fromarray(texture(*size, 3)))
    assert found.max() < 1.1  # half a step for each of Pillow's two roundings
    assert found.mean() < 0.32


@pytest.mark.parametrize("size", SIZES)
def test_rounded_pixels_are_the_references(size):
    found = differences(Image.fromarray(texture(*size, 3)), round_to_8bit=True)
    assert found.max() < 1.001  # ties fall to either side
    assert (found > 0.5).mean() < 2e-4


@pytest.mark.parametrize("size", UNCHANGED)
@pytest.mark.parametrize("round_to_8bit", [False, True])
def test_an_image_of_the_right_size_is_only_cropped(size, round_to_8bit):
    image = Image.fromarray(texture(*size, 3))
    exact = torch.from_numpy(pixels_from_image(image).copy()).permute(2, 0, 1)[None] / 255
    ours = resize_and_crop(tensor_of(image), round_to_8bit=round_to_8bit)
    assert torch.equal((ours * 255).round() / 255, exact)
    assert round_to_8bit or torch.equal(ours, exact)


def test_photographs_are_within_rounding_of_the_reference(photographs: list[Path]):
    resized = 0
    for path in photographs:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        found, rounded = differences(image), differences(image, round_to_8bit=True)
        assert found.max() < 1.1 and found.mean() < 0.3, path.name
        assert rounded.max() < 1.001 and (rounded > 0.5).mean() < 1e-4, path.name
        resized += found.max() > 0
    assert resized >= 3  # the others are 224x224 already


def test_overshoots_are_clamped_and_have_no_gradient():
    stripes = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    stripes[..., 8:16] = stripes[..., 24:] = 1
    resized = resize_and_crop(stripes.requires_grad_())
    low, high = (float(value) for value in resized.detach().aminmax())
    assert low == -1e-5 and high == 1 + 1e-5  # unclamped: -0.07 and 1.07
    over = resized[0, 0, 112] > 1 + 9e-6
    assert over.any()
    (gradient,) = torch.autograd.grad(resized[0, 0, 112][over].sum(), stripes)
    assert not gradient.any()


def test_saturated_areas_keep_their_gradient():
    white = torch.ones(1, 3, 300, 400, requires_grad=True)
    resize_and_crop(white).sum().backward()
    kept = white.grad[..., 50:350]  # 224 of 298 columns are kept: 300 of 400
    # What one input pixel gives to all outputs together: 1 / scale for each axis.
    assert kept[..., 20:-20, 20:-20].mean() == pytest.approx((224 / 300) ** 2, rel=5e-3)
    assert kept[..., 20:-20, 20:-20].min() > 0.3
    assert not white.grad[..., :45].any() and not white.grad[..., 355:].any()


def test_the_gradient_is_the_transpose():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 50, 37, dtype=torch.float64, generator=generator) / 2 + 0.25
    other = torch.randn(2, 3, 224, 224, dtype=torch.float64, generator=generator)
    step = torch.randn(images.shape, dtype=torch.float64, generator=generator) * 1e-3
    (gradient,) = torch.autograd.grad(
        (resize_and_crop(images.requires_grad_()) * other).sum(), images
    )
    moved = resize_and_crop(images.detach() + step) - resize_and_crop(images.detach())
    assert float((gradient * step).sum()) == pytest.approx(float((moved * other).sum()), rel=1e-9)


def test_a_size_first_seen_in_inference_mode_has_gradients_later():
    images = torch.rand(1, 1, 33, 35, dtype=torch.float64)
    with torch.inference_mode():
        scored = resize_and_crop(images).sum()
    resized = resize_and_crop(images.requires_grad_()).sum()
    resized.backward()
    assert images.grad.any() and float(resized.detach()) == float(scored)


def test_rounding_is_invisible_to_gradients():
    values = torch.tensor([0.0, 0.1, 0.5, 1.0005], requires_grad=True)
    rounded = rounded_to_8bit(values)
    np.testing.assert_allclose(
        rounded.detach().numpy() * 255, [0, 26, 128, 255], atol=1e-4
    )  # 25.5 and 127.5 are ties: to even
    rounded.sum().backward()
    assert torch.equal(values.grad, torch.ones(4))


def test_the_kernel_is_keys():
    known = {0: 1.0, 0.5: 0.5625, 1: 0.0, 1.5: -0.0625, 2: 0.0, 2.5: 0.0, -0.5: 0.5625}
    found = cubic(torch.tensor(list(known), dtype=torch.float64))
    np.testing.assert_allclose(found, list(known.values()), atol=1e-15)
