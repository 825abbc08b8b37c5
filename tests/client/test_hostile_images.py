"""No file takes long, takes much, or says what it should not; each abuse has its case."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aesthetic_client import _guards
from aesthetic_client._guards import SCAN
from aesthetic_client.errors import ImageError
from aesthetic_client.pixels import IMAGE_CODES, PixelOptions, prepare_pixels
from generated_images import encoded, generated, png, png_chunk, texture

PHOTO = Image.fromarray(texture(640, 480, 3))
JPEG = encoded(PHOTO, "JPEG")
PNG = encoded(PHOTO)
WEBP = encoded(PHOTO, "WEBP")


def flat_png(width: int, height: int, bits: int = 1) -> bytes:
    """A valid greyscale PNG of any size in a few bytes."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width * bits + 7) // 8)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", body), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg_of_scans(count: int) -> bytes:
    grey = Image.new("RGB", (4000, 4000), (120, 130, 140))
    data = encoded(grey, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def jpeg_size(data: bytes, width: int, height: int) -> bytes:
    """The same JPEG, with another size in its frame header."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def hostile() -> Iterator[tuple[str, Callable[[], bytes], str | None]]:
    """(name, file, expected code); None where the file is odd but must be scored."""
    yield "empty", lambda: b"", "empty"
    yield "text", lambda: b"not an image at all", "unknown_format"
    yield "html", lambda: b"<html><body>404</body></html>", "unknown_format"
    yield "magic only jpeg", lambda: b"\xff\xd8\xff", "corrupt"
    yield "magic only png", lambda: b"\x89PNG\r\n\x1a\n", "corrupt"
    yield "gif", lambda: encoded(PHOTO, "GIF"), "format_not_allowed"
    yield "tiff", lambda: encoded(PHOTO, "TIFF"), "format_not_allowed"
    yield "bmp", lambda: encoded(PHOTO, "BMP"), "format_not_allowed"
    for name, data in (("jpeg", JPEG), ("png", PNG), ("webp", WEBP)):
        yield f"cut {name}", lambda data=data: data[: len(data) // 2], "corrupt"
        yield f"cut in the header {name}", lambda data=data: data[:30], "corrupt"
    yield "1x10000 png", lambda: flat_png(1, 10_000), None
    yield "10000x1 png", lambda: flat_png(10_000, 1), None
    yield "1x1000000 png", lambda: flat_png(1, 1_000_000), None
    yield "65000x1 jpeg", lambda: encoded(Image.new("RGB", (65_000, 1)), "JPEG"), None
    yield "huge png", lambda: flat_png(20_000, 20_000), "too_large"
    yield "huge jpeg", lambda: jpeg_size(JPEG, 65_000, 65_000), "too_large"
    yield "48 MP one-bit png", lambda: flat_png(8_000, 6_000), None
    yield "49 MP 16-bit png", lambda: flat_png(7_000, 7_000, 16), "too_slow"
    yield "zero wide png", lambda: png(0, 10, 8, 0, b""), "corrupt"
    yield "1000 scans", lambda: jpeg_of_scans(1000), "too_slow"
    yield (
        "million chunks png",
        lambda: PNG[:33] + png_chunk(b"teSt", b"x") * 1_000_000 + PNG[33:],
        "too_slow",
    )
    yield (
        "million markers jpeg",
        lambda: JPEG[:2] + b"\xff\xe5\x00\x02" * 1_000_000 + JPEG[2:],
        "too_slow",
    )
    yield "junk jpeg", lambda: JPEG[:2] + bytes(40_000_000) + JPEG[2:], None
    yield "fill bytes jpeg", lambda: JPEG[:2] + b"\xff" * 40_000_000 + JPEG[2:], "corrupt"
    yield "text bomb png", lambda: png_text_bomb(), None
    yield "3000 profiles png", lambda: png_repeating(b"iCCP", b"a\0\0", 3000), "too_slow"
    yield "300 packed texts png", lambda: png_repeating(b"zTXt", b"a\0\0", 300), "too_slow"
    yield (
        "300 packed international texts png",
        lambda: png_repeating(b"iTXt", b"a\0\1\0\0\0", 300),
        "too_slow",
    )
    yield "trailing garbage", lambda: JPEG + bytes(20_000_000), None


def png_text_bomb() -> bytes:
    bomb = b"comment\x00\x00" + zlib.compress(bytes(50_000_000), 9)
    return PNG[:33] + png_chunk(b"zTXt", bomb) * 20 + PNG[33:]


def png_repeating(kind: bytes, start: bytes, count: int) -> bytes:
    """Each chunk unpacks to a megabyte, which is no text, so that no sum of Pillow's has it."""
    chunk = png_chunk(kind, start + zlib.compress(b"\xff" * (1 << 20), 9))
    return PNG[:33] + chunk * count + PNG[33:]


CASES = {name: (make, code) for name, make, code in hostile()}


@pytest.mark.parametrize("name", CASES)
def test_hostile_file_is_cheap_and_named(name: str, tmp_path: Path) -> None:
    """A process of its own: its peak memory is the file's doing."""
    make, code = CASES[name]
    path = tmp_path / "hostile"
    path.write_bytes(make())
    program = """
import sys, time
from aesthetic_client.errors import ImageError
from aesthetic_client.pixels import prepare_pixels, warm_up
import PIL.Image, PIL.JpegImagePlugin, PIL.PngImagePlugin, PIL.WebPImagePlugin
PIL.Image.init()
data = open(sys.argv[1], "rb").read()
warm_up()  # what a server does once, when it starts
start = time.process_time()
try:
    prepare_pixels(data)
    print("scored")
except ImageError as error:
    print(error.code)
print(time.process_time() - start)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    outcome, seconds, peak_kb = done.stdout.split()
    if code is not None or outcome != "scored":
        assert outcome in IMAGE_CODES
        assert outcome == (code or outcome)
    assert float(seconds) < 1.0
    assert int(peak_kb) < 600_000


@pytest.mark.parametrize("name", [name for name, (_, code) in CASES.items() if code])
def test_messages_hold_no_addresses_or_paths(name: str) -> None:
    make, code = CASES[name]
    with pytest.raises(ImageError) as caught:
        prepare_pixels(make())
    text = str(caught.value)
    assert text.endswith(f"[{code}]")
    assert not re.search(r"\b0x|<|/", text)


def test_random_damage_never_escapes_as_another_error() -> None:
    """Each file with bytes flipped, cut or repeated: pixels or an ImageError, nothing else."""
    rng = np.random.default_rng(0)
    failures = 0
    for name, data in generated():
        for _ in range(6):
            broken = bytearray(data)
            for at in rng.integers(0, len(broken), 8):
                broken[at] = rng.integers(0, 256)
            broken = broken[: rng.integers(len(broken) // 2, len(broken) + 1)]
            try:
                assert prepare_pixels(bytes(broken)).shape == (224, 224, 3), name
            except ImageError as error:
                assert error.code in IMAGE_CODES
                failures += 1
    assert failures > 50


def test_a_photographs_profile_and_texts_are_read() -> None:
    plain = png_chunk(b"iTXt", b"a\0\0\0\0\0words") * 100 + png_chunk(b"tEXt", b"a\0words") * 100
    packed = png_repeating(b"zTXt", b"a\0\0", 20)
    profile = png_repeating(b"iCCP", b"a\0\0", 1)
    for data in (PNG[:33] + plain + PNG[33:], packed, profile):
        assert np.array_equal(prepare_pixels(data), prepare_pixels(PNG))


def scans_and_more(count: int, between: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan stands there `count` times more, each after `between`."""
    data = encoded(PHOTO, "JPEG", progressive=True)
    last = data.rindex(SCAN)
    return data[:last] + (between + data[last:-2]) * count + data[last:]


def exif_of(preview: bytes) -> bytes:
    return b"Exif\0\0" + b"II*\0" + bytes(4) + preview


def test_scans_are_those_of_the_first_frame() -> None:
    preview = encoded(PHOTO.resize((160, 120)), "JPEG")
    camera = encoded(PHOTO, "JPEG", exif=exif_of(preview))
    frames = encoded(PHOTO, "MPO", save_all=True, append_images=[PHOTO, PHOTO])
    assert camera.count(SCAN) == 2 and frames.count(SCAN) == 3
    for data in (JPEG, camera, frames, JPEG + JPEG):
        assert _guards._jpeg_scans(data) == 1
    progressive = encoded(PHOTO, "JPEG", progressive=True, exif=exif_of(preview))
    assert _guards._jpeg_scans(progressive) == progressive.count(SCAN) - 1 == 10


@pytest.mark.parametrize(
    "between",
    [
        b"",
        b"\xff\xfe\x00\x04\xff\xd9",  # an end inside of a comment
        b"\xff\x02\xff\xff",  # a marker that libjpeg skips without its length
        b"\xff\xd3\xff\xff\xff\x01",  # a restart, fill bytes, and a marker without a length
    ],
)
def test_no_scan_hides_behind_what_libjpeg_skips(between: bytes) -> None:
    assert _guards._jpeg_scans(scans_and_more(500, between)) == 511 - 1


def test_more_markers_than_are_walked_count_as_scans_all_the_same() -> None:
    data = scans_and_more(60, b"\xff\xfe\x00\x02" * 100)
    assert _guards._jpeg_scans(data) == data.count(SCAN) > 60


def test_limits_are_options() -> None:
    with pytest.raises(ImageError, match=r"640x480 .* raise `max_pixels` \[too_large\]"):
        prepare_pixels(PNG, PixelOptions(max_pixels=1000))
    with pytest.raises(ImageError, match=r"PNG may take .* \[too_slow\]"):
        prepare_pixels(PNG, PixelOptions(max_decode_ms=1))
    assert prepare_pixels(io.BytesIO(PNG).getvalue()).any()
