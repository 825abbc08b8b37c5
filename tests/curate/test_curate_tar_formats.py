"""Tars in any format: long and foreign names, sizes beyond octal, sparse files, packed tars."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from curate_datasets import write_tar
from curate_tars import FORMATS, add, copied, notes, rows, samples

from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.tar_headers import BLOCK


@pytest.mark.parametrize("kind", FORMATS)
def test_long_and_foreign_names_in_every_format(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tar"
    names = ["日本/写真.jpg", "a" * 60 + "/" + "b" * 90 + ".jpg", "é" * 40 + ".jpg", "x.jpg"]
    if kind != "ustar":
        names += ["long/" * 60 + "0.jpg", "y" * 99 + ".jpg", "z" * 96 + ".jpg"]
    with tarfile.open(path, "w", format=FORMATS[kind]) as tar:
        for name in names:
            add(tar, name, name.encode())
            add(tar, name[:-4] + ".txt", b"")
    assert rows(path) == [(name[:-4], "jpg", "ok", name.encode()) for name in names]
    with tarfile.open(path) as tar:
        assert [name for name in tar.getnames() if name.endswith("jpg")] == names


def test_names_that_are_no_utf8_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        add(tar, "caf\xe9.jpg", b"e")
        add(tar, "caf\xe8.jpg", b"e")
    assert [s.key for s in samples(path)] == ["caf\\xe9", "caf\\xe8"]


def test_pax_sizes_and_global_headers(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as tar:
        add(tar, "0.jpg", b"x" * 700, mtime="1.5", comment="own")
        add(tar, "1.jpg", b"y" * 3)
    assert [(s.key, len(s.image or b"")) for s in samples(path)] == [("0", 700), ("1", 3)]
    # A size that only the pax header tells, as for members of 8 GB and more.
    blocks = path.read_bytes()
    start = blocks.index(b"0.jpg\0")
    header = bytearray(blocks[start : start + BLOCK])
    header[124:136] = b"00000000000\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    record = b"12 size=700\n"
    pax = tarfile.TarInfo("p")
    pax.type, pax.size = b"x", len(record)
    before = pax.tobuf(tarfile.USTAR_FORMAT) + record.ljust(BLOCK, b"\0")
    data = b"x" * 700
    path.write_bytes(before + bytes(header) + data.ljust(1024, b"\0") + bytes(1024))
    assert rows(path) == [("0", "jpg", "ok", data)]


def test_sizes_in_base_256(tmp_path: Path) -> None:
    info = tarfile.TarInfo("0.jpg")
    info.size = 5
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\x80" + (5).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(header) + b"12345".ljust(BLOCK, b"\0") + bytes(1024))
    assert rows(path) == [("0", "jpg", "ok", b"12345")]


def gnu_sparse() -> bytes:
    """A GNU sparse member "0.jpg" of 4096 bytes: eight at 1024, eight at 3072, holes else."""
    info = tarfile.TarInfo("0.jpg")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 16
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    fields = [(386, 1024), (398, 8), (410, 3072), (422, 8), (483, 4096)]
    for place, number in fields:
        header[place : place + 12] = b"%011o\0" % number
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"11111111" + b"22222222" + bytes(BLOCK - 16)


def test_sparse_files(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    after = tarfile.TarInfo("1.jpg")
    after.size = 3
    path.write_bytes(gnu_sparse() + after.tobuf() + b"one".ljust(BLOCK, b"\0") + bytes(2 * BLOCK))
    data = bytearray(4096)
    data[1024:1032], data[3072:3080] = b"11111111", b"22222222"
    with tarfile.open(path) as tar:
        file = tar.extractfile("0.jpg")
        assert file and file.read() == bytes(data)
    assert rows(path) == [("0", "jpg", "ok", bytes(data)), ("1", "jpg", "ok", b"one")]
    assert copied(path, [0]) == gnu_sparse()


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the tar command")
@pytest.mark.parametrize("version", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_as_gnu_tar_writes_them(tmp_path: Path, version: str) -> None:
    with (tmp_path / "0.jpg").open("wb") as file:
        for place in range(0, 2_000_000, 50_000):  # more pieces than one header holds
            file.seek(place)
            file.write(b"x" * 3000)
    (tmp_path / "1.jpg").write_bytes(b"one")
    kind = ["--format=gnu"] if version == "gnu" else ["--format=pax", f"--sparse-version={version}"]
    done = subprocess.run(
        ["tar", *kind, "-S", "-cf", "a.tar", "0.jpg", "1.jpg"], cwd=tmp_path, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no GNU tar: {done.stderr.decode()}")
    data = (tmp_path / "0.jpg").read_bytes()
    assert rows(tmp_path / "a.tar") == [("0", "jpg", "ok", data), ("1", "jpg", "ok", b"one")]
    target = tmp_path / "b.tar"
    target.write_bytes(copied(tmp_path / "a.tar", [1, 0]) + bytes(2 * BLOCK))
    with tarfile.open(target) as tar:
        file = tar.extractfile("0.jpg")
        assert file and file.read() == data


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar.zst": zstd,
    "tar.gz": gzip.compress,
    "tgz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_tars(tmp_path: Path, kind: str) -> None:
    noise = random.Random(0)
    members = [(f"{index}.jpg", noise.randbytes(3000)) for index in range(9)]
    plain = write_tar(tmp_path / "a.tar", members)
    packed = PACKERS[kind](plain.read_bytes())
    path = tmp_path / f"a.{kind}"
    path.write_bytes(packed)
    assert rows(path) == rows(plain)
    # Two parts packed apart, one after the other.
    half = plain.read_bytes()
    path.write_bytes(PACKERS[kind](half[:5000]) + PACKERS[kind](half[5000:]))
    assert rows(path) == rows(plain)
    if kind in ("tar.bz2", "tar.zst"):
        return  # one block holds all of so small a tar
    path.write_bytes(packed[: len(packed) * 2 // 3])
    kept = rows(path)
    assert 3 <= len(kept) < 9 and notes(path)["truncated"] == 1
    good = [row for row in kept if row[2] == "ok"]
    assert good == rows(plain)[: len(good)] and len(good) >= len(kept) - 1


@pytest.mark.parametrize("name", ["BZh.jpg", "BZh9.jpg", "BZh1AY&SY.jpg"])
def test_a_name_like_the_mark_of_a_packed_file(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / "a.tar", [(name, b"x")])
    assert rows(path) == [(name.removesuffix(".jpg"), "jpg", "ok", b"x")]


def test_an_empty_packed_file_is_no_tar(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.bz2"
    path.write_bytes(bz2.compress(b""))
    with pytest.raises(UnreadableError, match="is no tar archive"):
        samples(path)
