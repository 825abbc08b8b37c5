"""What a caller may hand over, and how it is refused."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aesthetic_client._address import parse_address
from aesthetic_client._core import group_size, grouped, load_group
from aesthetic_client.errors import ImageError, InputError
from aesthetic_client.images import Encoded, Prepared, describe, load
from aesthetic_client.pixels import DEFAULT_OPTIONS, prepare_pixels
from generated_images import encoded, texture

PHOTO = Image.fromarray(texture(300, 200, 3))
FILE = encoded(PHOTO)


def test_every_source_gives_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(FILE)
    expected = prepare_pixels(FILE)
    sources = [
        *(path, str(path), FILE, bytearray(FILE), memoryview(FILE), io.BytesIO(FILE)),
        *(PHOTO, np.asarray(PHOTO), expected),
    ]
    for source in sources:
        item = load(source, "client", DEFAULT_OPTIONS)
        assert isinstance(item, Prepared) and np.array_equal(item.pixels, expected)
    sources[5].seek(0)
    for source in sources[:6]:
        assert load(source, "server", DEFAULT_OPTIONS) == Encoded(FILE)


def test_a_palette_image_is_resized_in_its_own_mode() -> None:
    palette = PHOTO.quantize(32)
    item = load(palette, "server", DEFAULT_OPTIONS)
    assert isinstance(item, Prepared)
    assert np.array_equal(item.pixels, prepare_pixels(encoded(palette)))


def test_files_load_while_another_thread_imports_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", types.ModuleType("PIL.Image"))  # not yet run
    assert load(FILE, "server", DEFAULT_OPTIONS) == Encoded(FILE)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (3.5, "got float"),
        (None, "got NoneType"),
        (io.StringIO("text"), "binary mode"),
        (np.zeros((8, 8, 3), np.float32), r"uint8 .*got float32.*\* 255"),
        (np.zeros((8, 8, 7), np.uint8), r"got shape \(8, 8, 7\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "got shape"),
        (b"", r"\[empty\]"),
        ("/nonexistent/photo.jpg", r"No such file.*\[unreadable\]"),
    ],
)
def test_other_sources_are_refused(source: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(source, "server", DEFAULT_OPTIONS)  # type: ignore[arg-type]


def test_a_failing_file_object_is_an_error_of_its_item() -> None:
    class Broken:
        def read(self) -> bytes:
            raise ValueError("lent out")

    good, bad = load_group([FILE, Broken()], "server", DEFAULT_OPTIONS)  # type: ignore[list-item]
    assert good == Encoded(FILE)
    assert isinstance(bad, ImageError) and "lent out" in str(bad)


def test_sources_are_named_for_people() -> None:
    assert describe(Path("a/b.jpg")) == "a/b.jpg"
    assert describe(b"...") == "bytes"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("gpu1", "grpc://gpu1:8001"),
        ("gpu1:9001", "grpc://gpu1:9001"),
        ("grpc://gpu1", "grpc://gpu1:8001"),
        ("grpcs://gpu1:443", "grpcs://gpu1:443"),
        ("http://gpu1", "http://gpu1:8000"),
        ("https://gpu1/triton/", "https://gpu1:443/triton"),
        ("[::1]:8001", "grpc://[::1]:8001"),
    ],
)
def test_addresses(url: str, expected: str) -> None:
    assert str(parse_address(url)) == expected


@pytest.mark.parametrize("url", ["", "ftp://x", "grpc://", "host:port", "grpc://host:8001/path"])
def test_wrong_addresses(url: str) -> None:
    with pytest.raises(InputError, match="address"):
        parse_address(url)


def test_groups_keep_order_and_what_came_before_a_failure() -> None:
    assert list(grouped("abcde", 2)) == [(0, ["a", "b"]), (2, ["c", "d"]), (4, ["e"])]

    def failing() -> object:
        yield from "abc"
        raise OSError("the list broke off")

    groups = grouped(failing(), 2)
    assert [next(groups), next(groups)] == [(0, ["a", "b"]), (2, ["c"])]
    with pytest.raises(OSError, match="broke off"):
        next(groups)


def test_group_sizes() -> None:
    assert group_size("server", 16) == 1
    assert (group_size("client", 3), group_size("client", 99)) == (3, 8)
    with pytest.raises(InputError, match="in_flight"):
        group_size("client", 0)
