"""Which files go to DALI, and what becomes of a file when its batch fails. Needs no DALI."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from dali_parts import NOT_FOR_DALI, all_images, routing
from PIL import Image

from aesthetic_client.pixels import DEFAULT_OPTIONS, PixelOptions
from generated_images import encoded, texture

ROUTING = routing()
PHOTO = encoded(Image.fromarray(texture(320, 240, 3)), "JPEG")
PNG = encoded(Image.fromarray(texture(320, 240, 3)))
WEBP = encoded(Image.fromarray(texture(320, 240, 3)), "WEBP")


def goes(data: bytes, options: PixelOptions = DEFAULT_OPTIONS) -> bool:
    result = ROUTING.decodes_the_same(data, options)
    assert isinstance(result, bool)
    return result


@pytest.mark.parametrize(("name", "data"), all_images(), ids=lambda value: str(value)[:30])
def test_every_kind_of_file_goes_its_way(name: str, data: bytes) -> None:
    assert goes(data) == (name not in {*NOT_FOR_DALI, "rgb.jpg"})


def test_photographs_go_to_dali(photographs: list[Path]) -> None:
    assert all(goes(path.read_bytes()) for path in photographs)


@pytest.mark.parametrize("data", [PHOTO, PNG, WEBP], ids=["jpeg", "png", "webp"])
def test_a_file_that_is_cut_off_goes_to_the_cpu(data: bytes) -> None:
    """There it is refused; DALI would paint the missing part grey."""
    assert goes(data)
    for length in (len(data) - 1, len(data) // 2, 40, 10, 1, 0):
        assert not goes(data[:length])


@pytest.mark.parametrize("data", [b"", b"not an image", b"GIF89a" + bytes(40), b"\xff\xd8\xff\xd9"])
def test_what_is_no_image_goes_to_the_cpu(data: bytes) -> None:
    assert not goes(data)


def test_large_and_long_images_go_to_the_cpu() -> None:
    side = int(ROUTING.MAX_PIXELS**0.5)
    assert goes(encoded(Image.new("L", (side, side)), compress_level=1))
    assert not goes(encoded(Image.new("L", (side + 1, side + 1)), compress_level=1))
    assert goes(encoded(Image.new("RGB", (640, 10))))
    assert not goes(encoded(Image.new("RGB", (641, 10))))


def test_options_are_kept() -> None:
    assert not goes(PHOTO, PixelOptions(formats=("PNG",)))
    assert goes(PNG, PixelOptions(formats=("PNG",)))
    assert not goes(PHOTO, PixelOptions(max_pixels=1000))
    gif = encoded(Image.fromarray(texture(32, 32, 1)[..., 0]), "GIF")
    assert not goes(gif, PixelOptions(formats=("GIF",)))


def test_a_turned_photograph_goes_to_the_cpu_where_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(texture(320, 240, 3)), "JPEG", exif=exif)
    assert goes(turned)
    assert not goes(turned, PixelOptions(apply_exif_orientation=True))
    assert goes(PHOTO, PixelOptions(apply_exif_orientation=True))


# --- the way of a file, with two made-up models -----------------------------------------------


class Batches:
    """A decoder that waits for `size` files, and fails all of them when one of them is broken."""

    def __init__(self, size: int, broken: bytes) -> None:
        self._size, self._broken = size, broken
        self._gathered = asyncio.Event()
        self.files: list[bytes] = []

    async def __call__(self, data: bytes) -> str:
        self.files.append(data)
        if len(self.files) == self._size:
            self._gathered.set()
        await self._gathered.wait()
        if self._broken in self.files:
            raise ROUTING.StepError("the batch failed")
        return f"dali {len(data)}"


async def prepare(data: bytes) -> str:
    if data == BROKEN:
        raise ROUTING.StepError("the image is broken")
    return f"cpu {len(data)}"


# Looks whole, and is not: the middle of a PNG is gone.
BROKEN = PNG[: len(PNG) // 2] + bytes(1000) + PNG[-12:]


def ways(files: list[bytes], batches: Batches) -> list[object]:
    async def run() -> list[object]:
        return await asyncio.gather(
            *(ROUTING.pixels_of(data, DEFAULT_OPTIONS, batches, prepare) for data in files),
            return_exceptions=True,
        )

    return asyncio.run(run())


def test_whole_files_are_decoded_together() -> None:
    batches = Batches(2, BROKEN)
    assert ways([PHOTO, PNG], batches) == [f"dali {len(PHOTO)}", f"dali {len(PNG)}"]
    assert batches.files == [PHOTO, PNG]


def test_neighbours_of_a_broken_file_keep_their_pixels() -> None:
    assert goes(BROKEN)
    good, bad, other = ways([PHOTO, BROKEN, WEBP], Batches(3, BROKEN))
    assert (good, other) == (f"cpu {len(PHOTO)}", f"cpu {len(WEBP)}")
    assert isinstance(bad, ROUTING.StepError) and bad.args == ("the image is broken",)


def test_what_dali_cannot_take_is_not_sent_to_it() -> None:
    palette = dict(all_images())["mode-P.png"]
    batches = Batches(1, BROKEN)
    assert ways([palette], batches) == [f"cpu {len(palette)}"]
    assert not batches.files


def test_other_failures_are_not_swallowed() -> None:
    async def decode(data: bytes) -> str:
        raise KeyError("a mistake of ours")

    with pytest.raises(KeyError):
        asyncio.run(ROUTING.pixels_of(PHOTO, DEFAULT_OPTIONS, decode, prepare))
