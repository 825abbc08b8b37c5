"""Tars as they are found: in any format, order and state."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from curate_datasets import photo, write_tar
from webdataset import tariterators

from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.grouping import Grouping, split_name
from aesthetic_curate.opening import open_source
from aesthetic_curate.options import InputOptions
from aesthetic_curate.samples import Chunk, Sample
from aesthetic_curate.shards import Shard
from aesthetic_curate.tar_headers import BLOCK, padded

OPTIONS = InputOptions()


def shard(path: Path) -> Shard:
    return Shard(path.stem, "tar", str(path))


def samples(path: Path, options: InputOptions = OPTIONS) -> list[Sample]:
    with open_source(shard(path), options) as source:
        found = [sample for chunk in source.chunks() for sample in chunk.samples]
        assert len(found) == len(source)
    return found


def notes(path: Path) -> dict[str, int]:
    with open_source(shard(path), OPTIONS) as source:
        list(source.chunks())
        return dict(source.notes)


def rows(path: Path) -> list[tuple[str, str, str, bytes | None]]:
    return [(s.key, s.name, s.status, s.image) for s in samples(path)]


def extensions(path: Path) -> list[list[str]]:
    with open_source(shard(path), OPTIONS) as source:
        return [[m.extension for m in source.members(row)] for row in range(len(source))]


def test_keys_end_at_the_first_dot() -> None:
    assert split_name("a/b.c/00.SEG.Png") == ("a/b.c/00", "seg.png")
    assert split_name("./00.jpg") == ("./00", "jpg")
    ignored = [".hidden.jpg", "a/._00.jpg", "README", "a.b/README", "a.", "__meta__", "__x__/a.jpg"]
    assert [split_name(name) for name in ignored] == [None] * len(ignored)


def test_members_of_a_sample_need_not_follow_each_other(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        [("0.json", b"{}"), ("1.jpg", b"one"), ("0.jpg", b"zero"), ("1.txt", b"1"), ("2.txt", b"")],
    )
    assert rows(path) == [
        ("0", "jpg", "ok", b"zero"),
        ("1", "jpg", "ok", b"one"),
        ("2", "", "no_image", None),
    ]
    assert extensions(path) == [["json", "jpg"], ["jpg", "txt"], ["txt"]]
    assert notes(path) == {}


def test_a_repeated_key_is_a_further_sample(tmp_path: Path) -> None:
    names = ["0.jpg", "0.txt", "1.jpg", "0.jpg", "0.json", "0.jpg", "0.txt", "0.txt", "0.txt"]
    members = [(name, str(place).encode()) for place, name in enumerate(names)]
    path = write_tar(tmp_path / "a.tar", members)
    # Rows come in the order of their first members; each file fills the earliest that lacks it.
    assert rows(path) == [
        ("0", "jpg", "ok", b"0"),
        ("1", "jpg", "ok", b"2"),
        ("0", "jpg", "ok", b"3"),
        ("0", "jpg", "ok", b"5"),
        ("0", "", "no_image", None),
    ]
    assert extensions(path) == [
        ["jpg", "txt", "json"],
        ["jpg"],
        ["jpg", "txt"],
        ["jpg", "txt"],
        ["txt"],
    ]
    assert notes(path) == {"duplicate_keys": 3}


def test_which_of_several_images_is_scored(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        [
            *((f"0.{kind}", kind.encode()) for kind in ("seg.jpg", "webp", "png", "bmp")),
            *((f"1.{kind}", kind.encode()) for kind in ("mask.png", "seg.png", "a.jpg")),
            *((f"2.{kind}", kind.encode()) for kind in ("b.png", "a.png")),
            ("3.JPG", b"upper"),
        ],
    )
    assert [(s.name, s.image) for s in samples(path)] == [
        ("png", b"png"),
        ("a.jpg", b"a.jpg"),
        ("b.png", b"b.png"),
        ("jpg", b"upper"),
    ]
    assert notes(path) == {"several_images": 3}
    chosen = InputOptions(image_extensions=("bmp", "seg.png", "webp"))
    assert [s.name for s in samples(path, chosen)] == ["bmp", "seg.png", "", ""]


def test_many_files_of_one_key_take_linear_time() -> None:
    grouping = Grouping()
    for number in range(20_000):
        grouping.add("one", f"{number}.jpg")
    for number in range(20_000):
        grouping.add("same", "jpg")
        grouping.add("one", f"{number}.jpg")
    groups = grouping.groups()
    assert len(groups) == 20_002
    assert groups.duplicate_keys == 20_000
    images, several = groups.images(("jpg",))
    assert (images >= 0).all() and several == 2


def test_what_is_no_sample_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (
            ("folder", tarfile.DIRTYPE),
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "x" * 150
            tar.addfile(info)
        for name in ("._0.jpg", ".hidden", "README", "__urls__", "folder/0.jpg"):
            add(tar, name, b"data of " + name.encode())
    assert rows(path) == [("folder/0", "jpg", "ok", b"data of folder/0.jpg")]
    assert notes(path) == {"ignored_members": 8}


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def add(tar: tarfile.TarFile, name: str, data: bytes, **pax: str) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.pax_headers = len(data), pax
    tar.addfile(info, io.BytesIO(data))


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


def read_by_webdataset(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as stream:
        files = tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
        return list(tariterators.group_by_keys(files))


def copied(path: Path, which: Iterable[int]) -> bytes:
    target = io.BytesIO()
    with open_source(shard(path), OPTIONS) as source:
        for row in which:
            source.append_to(row, target)
    return target.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_copies_are_verbatim(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tar"
    long = "d" * 60 + "/" + "é" * 45
    entries = [
        ("0.jpg", photo(0)),
        (f"{long}.jpg", photo(1)),
        (f"{long}.json", b"{}"),
        ("2.jpg", b""),
    ]
    with tarfile.open(path, "w", format=FORMATS[kind]) as tar:
        for name, data in entries:
            extra = {"SCHILY.xattr.user.a": "b"} if kind == "pax" else {}
            add(tar, name, data, **extra)
    blocks = path.read_bytes()
    with tarfile.open(path) as tar:
        starts = [info.offset for info in tar]
        end = padded(tar.getmembers()[-1].offset_data)
    # Everything, in order, is the tar itself up to its end mark.
    assert copied(path, [0, 1, 2]) == blocks[:end]
    assert copied(path, [1]) == blocks[starts[1] : starts[3]]
    target = tmp_path / "b.tar"
    target.write_bytes(copied(path, [2, 1]) + bytes(2 * BLOCK))
    with tarfile.open(target) as tar:
        assert tar.getnames() == ["2.jpg", f"{long}.jpg", f"{long}.json"]
    read = read_by_webdataset(target)
    assert [(s["__key__"], s["jpg"]) for s in read] == [("2", b""), (long, photo(1))]
    assert read[1]["json"] == b"{}"


def test_webdataset_reads_the_same_samples(tmp_path: Path) -> None:
    members = [
        (f"part/{index:05d}.{extension}", f"{index}{extension}".encode())
        for index in range(50)
        for extension in ("jpg", "JSON", "seg.PNG")
    ]
    path = write_tar(tmp_path / "a.tar", members)
    theirs = read_by_webdataset(path)
    with open_source(shard(path), OPTIONS) as source:
        assert len(source) == len(theirs) == 50
        for row, (chunk_sample, other) in enumerate(zip(samples(path), theirs, strict=True)):
            assert chunk_sample.key == other["__key__"]
            ours = {m.extension: m.data for m in source.members(row)}
            assert ours == {name: value for name, value in other.items() if name[:2] != "__"}


def test_threads_read_at_once(tmp_path: Path) -> None:
    members = [(f"{index}.jpg", str(index).encode() * 1000) for index in range(400)]
    path = write_tar(tmp_path / "a.tar", members)
    wrong: list[int] = []
    with open_source(shard(path), OPTIONS) as source:

        def read(seed: int) -> None:
            order = list(range(400))
            random.Random(seed).shuffle(order)
            wrong.extend(row for row in order if source.members(row)[0].data != members[row][1])

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_bytes_after_the_end_mark_are_noted(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a.tar", [("0.jpg", b"x")])
    assert notes(first) == {}
    size = first.stat().st_size
    first.write_bytes(first.read_bytes() * 2)
    assert [s.key for s in samples(first)] == ["0"]
    assert notes(first) == {"trailing_bytes": size}


def test_too_large_images_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("0.jpg")
    info.size = 200 * 2**20
    with path.open("wb") as file:
        file.write(info.tobuf())
        file.truncate(BLOCK + info.size + 2 * BLOCK)  # holes
    (sample,) = samples(path)
    assert sample.status == "bad_image" and sample.image is None
    assert sample.error == "the file has 200 MB, the limit is 128"


def test_chunks_of_large_images_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aesthetic_curate.grouped_source.CHUNK_BYTES", 2000)
    path = write_tar(tmp_path / "a.tar", [(f"{i}.jpg", b"x" * 900) for i in range(7)])
    with open_source(shard(path), OPTIONS) as source:
        assert [len(chunk.samples) for chunk in source.chunks()] == [3, 3, 1]
    small = write_tar(tmp_path / "b.tar", [(f"{i}.jpg", b"") for i in range(600)])
    with open_source(shard(small), OPTIONS) as source:
        assert [len(chunk.samples) for chunk in source.chunks()] == [256, 256, 88]


def test_indexing_is_quick_and_compact(tmp_path: Path) -> None:
    import time
    import tracemalloc

    members = ((f"{i // 3:09d}.{('jpg', 'json', 'txt')[i % 3]}", b"{}") for i in range(30_000))
    path = write_tar(tmp_path / "a.tar", members)
    started = time.process_time()
    with open_source(shard(path), OPTIONS) as source:
        seconds = time.process_time() - started
        assert len(source) == 10_000
    assert seconds < 3  # 0.4 where nothing else runs
    tracemalloc.start()
    with open_source(shard(path), OPTIONS) as source:
        kept, _ = tracemalloc.get_traced_memory()
        assert len(source) == 10_000
    tracemalloc.stop()
    assert kept < 30_000 * 60
