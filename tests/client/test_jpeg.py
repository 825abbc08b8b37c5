"""JPEGs decoded by simplejpeg are Pillow's pixels; where they would not be, Pillow decodes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aesthetic_client import _guards, _jpeg
from aesthetic_client.errors import ImageError
from aesthetic_client.pixels import PixelOptions, prepare_pixels
from generated_images import encoded, texture

simplejpeg = pytest.importorskip("simplejpeg")
PHOTO = Image.fromarray(texture(601, 467, 3))
PLAIN = encoded(PHOTO, "JPEG", quality=92)


def files() -> Iterator[tuple[str, Callable[[], bytes]]]:
    for name, subsampling in (("444", 0), ("422", 1), ("420", 2)):
        for quality in (30, 92, 98):
            for progressive in (False, True):
                options = {
                    "subsampling": subsampling,
                    "quality": quality,
                    "progressive": progressive,
                }
                kind = "progressive" if progressive else "baseline"
                yield (
                    f"{name}-{quality}-{kind}",
                    lambda options=options: encoded(PHOTO, "JPEG", **options),
                )
    for name in ("440", "411"):
        yield (
            name,
            lambda name=name: simplejpeg.encode_jpeg(np.asarray(PHOTO), 90, colorsubsampling=name),
        )
    yield "grey", lambda: encoded(PHOTO.convert("L"), "JPEG")
    yield "grey-progressive", lambda: encoded(PHOTO.convert("L"), "JPEG", progressive=True)
    yield "stored as RGB", lambda: encoded(PHOTO, "JPEG", keep_rgb=True, subsampling=0)
    yield "restarts", lambda: encoded(PHOTO, "JPEG", restart_marker_rows=1)
    yield "mpo", lambda: encoded(PHOTO, "MPO", save_all=True, append_images=[PHOTO.rotate(180)])
    for size in ((1, 1), (7, 9), (16, 17), (33, 15)):
        yield f"{size[0]}x{size[1]}", lambda size=size: encoded(PHOTO.resize(size), "JPEG")


FILES = dict(files())


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("name", FILES)
def test_pixels_equal_pillows(name: str, scale: int) -> None:
    data = FILES[name]()
    image = Image.open(io.BytesIO(data))
    assert image.format in ("JPEG", "MPO")
    found = _jpeg.decode(data, image, scale)
    if scale > 1 and min(image.size) < 2 * scale:
        return  # Pillow has no such reduction
    assert found is not None
    image.draft(image.mode, (image.width // scale, image.height // scale))
    expected = np.asarray(image)
    assert np.array_equal(found.pixels.squeeze(), expected.squeeze())


@pytest.mark.parametrize(
    "make",
    [
        lambda: encoded(PHOTO.convert("CMYK"), "JPEG"),
        lambda: encoded(PHOTO),
        lambda: PLAIN[:-400],
        lambda: PLAIN[:-2],
        lambda: PLAIN[:20] + bytes(9) + PLAIN[20:],
        lambda: PLAIN[:30_000] + b"\xff\xd9" + PLAIN[30_000:],
    ],
    ids=["cmyk", "png", "cut", "no end", "junk", "early end"],
)
def test_what_is_odd_is_left_to_pillow(make: Callable[[], bytes]) -> None:
    data = make()
    assert _jpeg.decode(data, Image.open(io.BytesIO(data)), 1) is None


def outcome(data: bytes, options: PixelOptions) -> Any:
    try:
        return prepare_pixels(data, options).tobytes()
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_files_end_as_they_do_without_it(
    progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pixels or the same words, for cuts, flipped bytes and repeated parts."""
    small = encoded(PHOTO, "JPEG", progressive=progressive, quality=40)
    random = np.random.default_rng(0)
    damaged = [small[:cut] for cut in random.integers(500, len(small), 20)]
    for at in random.integers(200, len(small) - 300, 30):
        damaged.append(small[:at] + bytes([random.integers(256)]) + small[at + 1 :])
        damaged.append(small[: at + 200] + small[at:])
    ours = [outcome(data, PixelOptions()) for data in damaged]
    monkeypatch.setattr(_jpeg, "_simplejpeg", lambda: None)
    assert ours == [outcome(data, PixelOptions()) for data in damaged]
    assert {str, bytes} == set(map(type, ours))


def test_a_file_is_decoded_twice_only_where_the_limit_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Junk between the segments: Pillow skips it, and simplejpeg warns after its whole work."""
    junk = PLAIN[:20] + bytes(9) + PLAIN[20:]
    expected = prepare_pixels(PLAIN)
    tried = []
    decode = _jpeg.decode

    def counted(*arguments: Any) -> Any:
        tried.append(1)
        return decode(*arguments)

    monkeypatch.setattr(_jpeg, "decode", counted)
    once = _guards.decode_ms(junk, Image.open(io.BytesIO(junk)))
    for limit, tries in ((2 * once + 1, 1), (2 * once - 1, 0)):
        tried.clear()
        assert np.array_equal(
            prepare_pixels(junk, PixelOptions(max_decode_ms=int(limit))), expected
        )
        assert len(tried) == tries


def test_reused_memory_never_shows_in_results() -> None:
    pictures = [encoded(Image.fromarray(texture(900, 700, 3, seed)), "JPEG") for seed in range(4)]
    expected = [prepare_pixels(data).copy() for data in pictures]
    assert 0 < len(_jpeg._kept) <= _jpeg.KEPT_BUFFERS
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(prepare_pixels, pictures * 6))
    for row, pixels in enumerate(found):
        assert np.array_equal(pixels, expected[row % 4])


def test_large_memory_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _jpeg._kept.clear()
    monkeypatch.setattr(_jpeg, "KEPT_BYTES", 601 * 467 * 3 - 1)
    prepare_pixels(PLAIN)
    assert _jpeg._kept == []
    monkeypatch.undo()
    prepare_pixels(PLAIN)
    assert [buffer.nbytes for buffer in _jpeg._kept] == [601 * 467 * 3]
