"""Tars in any state: cut, with broken headers, empty, and files that are no tars."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest
from curate_datasets import photo, write_tar
from curate_tars import OPTIONS, notes, rows, samples, shard

from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.opening import open_source
from aesthetic_curate.samples import Chunk
from aesthetic_curate.tar_headers import BLOCK, padded


def small_members() -> list[tuple[str, bytes]]:
    return [
        ("0.jpg", b"0" * 700),
        ("0.json", b'{"a": 0}'),
        ("x" * 120 + ".jpg", b"1" * 512),  # a long name: three blocks of headers
        ("2.json", b'{"a": 2}'),
        ("2.jpg", b"2" * 1300),
        ("3.jpg", b""),
    ]


def test_a_tar_cut_anywhere_gives_what_is_whole(tmp_path: Path) -> None:
    members = small_members()
    blocks = write_tar(tmp_path / "whole.tar", members).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        ends = [info.offset_data + info.size for info in tar]
        starts = [info.offset_data for info in tar]
    end_mark = padded(ends[-1])
    random.seed(0)
    cuts = {*range(BLOCK, len(blocks), BLOCK), *random.sample(range(BLOCK, end_mark), 200)}
    path = tmp_path / "cut.tar"
    for cut in sorted(cuts):
        path.write_bytes(blocks[:cut])
        with open_source(shard(path), OPTIONS) as source:
            (chunk,) = list(source.chunks()) or [Chunk([], None)]
            got = {s.key: s for s in chunk.samples}
            for (name, data), start, end in zip(members, starts, ends, strict=True):
                key, extension = name.split(".")
                if extension == "jpg" and end <= cut:
                    assert got[key].status == "ok" and got[key].image == data, cut
                elif extension == "jpg" and start <= cut:
                    assert got[key].status == "unreadable" and "cut off" in got[key].error, cut
                elif extension == "jpg" and key in got:  # its header is cut, its json is there
                    assert (key, got[key].status) == ("2", "no_image"), cut
            whole = [name for (name, _), end in zip(members, ends, strict=True) if end <= cut]
            assert sum(len(source.members(row)) for row in range(len(source))) == len(whole)
            assert source.notes.get("truncated", 0) == (cut <= end_mark), cut
            # What can be copied is a tar of whole members.
            target = io.BytesIO()
            for row in range(len(source)):
                source.append_to(row, target)
            target.write(bytes(2 * BLOCK))
            target.seek(0)
            with tarfile.open(fileobj=target) as tar:
                assert sorted(tar.getnames()) == sorted(whole)


def test_a_broken_header_in_the_middle_keeps_what_is_before(tmp_path: Path) -> None:
    members = [(f"{index}.jpg", b"%d" % index * 600) for index in range(6)]
    path = write_tar(tmp_path / "a.tar", members)
    blocks = bytearray(path.read_bytes())
    blocks[3 * 3 * BLOCK + 130] ^= 0x55  # in the fourth header, the size
    path.write_bytes(blocks)
    assert [s.key for s in samples(path)] == ["0", "1", "2"]
    assert notes(path) == {"truncated": 1}


def pax_header(records: bytes) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(padded(len(records)), b"\0")


@pytest.mark.parametrize("records", [b"0 a=b\n", b"28 size=9223372036854775808\n"])
def test_a_broken_pax_header_keeps_what_is_before(tmp_path: Path, records: bytes) -> None:
    path = write_tar(tmp_path / "a.tar", [("0.jpg", b"x"), ("1.jpg", b"y")])
    blocks = path.read_bytes()
    path.write_bytes(blocks[: 2 * BLOCK] + pax_header(records) + blocks[2 * BLOCK :])
    assert rows(path) == [("0", "jpg", "ok", b"x")]
    assert notes(path) == {"truncated": 1}


def test_a_size_beyond_any_file_keeps_what_is_before(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("0.jpg", b"x")])
    info = tarfile.TarInfo("1.jpg")
    info.size = 1 << 63
    path.write_bytes(path.read_bytes()[: 2 * BLOCK] + info.tobuf(tarfile.GNU_FORMAT))
    assert rows(path) == [("0", "jpg", "ok", b"x")]
    assert notes(path) == {"truncated": 1}


def test_a_tar_without_members(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [])
    assert samples(path) == [] and notes(path) == {}


@pytest.mark.parametrize(
    "content", [b"", b"not a tar", b"This is text, quite a lot of it.\n" * 99, photo(0)]
)
def test_what_is_no_tar_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.tar"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"text\.tar: is no tar archive"):
        samples(path)


def test_a_missing_tar_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"none\.tar: there is no such file"):
        samples(tmp_path / "none.tar")


def test_bytes_after_the_end_mark_are_noted(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a.tar", [("0.jpg", b"x")])
    assert notes(first) == {}
    size = first.stat().st_size
    first.write_bytes(first.read_bytes() * 2)
    assert [s.key for s in samples(first)] == ["0"]
    assert notes(first) == {"trailing_bytes": size}
