"""Tars as samples: their keys, their order, what is read of them and how much at a time."""

from __future__ import annotations

import random
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from curate_datasets import photo, write_tar
from curate_tars import FORMATS, OPTIONS, add, copied, extensions, notes, rows, samples, shard
from webdataset import tariterators

from aesthetic_curate.grouping import Grouping, split_name
from aesthetic_curate.opening import open_source
from aesthetic_curate.options import InputOptions
from aesthetic_curate.tar_headers import BLOCK, padded


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


def read_by_webdataset(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as stream:
        files = tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
        return list(tariterators.group_by_keys(files))


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
