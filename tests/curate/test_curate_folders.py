"""Folders of image files, as people keep them."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import fsspec
import pytest
from webdataset import tariterators

from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.inputs import find_shards
from aesthetic_curate.opening import open_source
from aesthetic_curate.options import InputOptions
from aesthetic_curate.samples import Sample
from aesthetic_curate.shards import Shard
from aesthetic_curate.tar_entries import tar_key

OPTIONS = InputOptions()


def write(folder: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def shard(folder: Path | str, start: int = 0, stop: int | None = None) -> Shard:
    return Shard("photos", "folder", str(folder), start, stop)


def samples(one: Shard) -> list[Sample]:
    with open_source(one, OPTIONS) as source:
        found = [sample for chunk in source.chunks() for sample in chunk.samples]
        assert len(found) == len(source)
    return found


def test_one_sample_an_image_with_the_files_of_its_name(tmp_path: Path) -> None:
    names = [
        *("b/2.jpg", "b/2.json", "a/1.PNG", "a/1.txt", "a/1.seg.npy", "0.webp"),
        *("Shot 2024.01.31 at 10.11.12.png", "Shot 2024.01.31 at 10.11.13.png"),
        *("Shot 2024.01.31 at 10.11.13.png.json", "README", "notes.txt", ".DS_Store"),
        *(".cache/9.jpg", "b/.hidden.jpg", "both.png", "both.jpg"),
    ]
    write(tmp_path, **{name: name.encode() for name in names})
    with open_source(shard(tmp_path), OPTIONS) as source:
        (chunk,) = source.chunks()
        assert [(s.key, s.name) for s in chunk.samples] == [
            ("0", "0.webp"),
            ("Shot 2024.01.31 at 10.11.12", "Shot 2024.01.31 at 10.11.12.png"),
            ("Shot 2024.01.31 at 10.11.13", "Shot 2024.01.31 at 10.11.13.png"),
            ("a/1", "a/1.PNG"),
            ("b/2", "b/2.jpg"),
            ("both", "both.jpg"),
        ]
        assert all(s.image == s.name.encode() for s in chunk.samples)
        assert [[m.extension for m in source.members(row)] for row in range(6)] == [
            ["webp"],
            ["png"],
            ["png", "png.json"],
            ["png", "seg.npy", "txt"],
            ["jpg", "json"],
            ["jpg", "png"],
        ]
        assert source.members(3)[1].data == b"a/1.seg.npy"
        assert chunk.metadata.to_pydict() == {"txt": [None] * 3 + ["a/1.txt"] + [None] * 2}
        assert dict(source.notes) == {
            "ignored_members": 5,  # README, notes.txt and three hidden ones
            "several_images": 1,
            "bad_metadata": 1,  # b/2.json holds no json
        }


def test_slices_together_are_the_whole(tmp_path: Path) -> None:
    write(tmp_path, **{f"{index:03d}.jpg": str(index).encode() for index in range(25)})
    write(tmp_path, **{f"{index:03d}.json": b'{"i": %d}' % index for index in range(25)})
    whole = samples(shard(tmp_path))
    assert [s.image for s in whole] == [str(index).encode() for index in range(25)]
    pieces = [samples(shard(tmp_path, start, start + 10)) for start in (0, 10, 20, 30)]
    assert [len(piece) for piece in pieces] == [10, 10, 5, 0]
    assert [sample for piece in pieces for sample in piece] == whole
    with open_source(shard(tmp_path, 10, 20), OPTIONS) as source:
        assert [m.data for m in source.members(3)] == [b"13", b'{"i": 13}']
        (chunk,) = source.chunks()
        assert chunk.metadata.to_pydict() == {"i": list(range(10, 20))}


def test_entries_are_read_as_samples_by_webdataset(tmp_path: Path) -> None:
    files = {
        "a/0.jpg": b"0",
        "a/0.json": b"{}",
        "v1.2 final.jpg": b"1",
        "long/" * 40 + "2.jpg": b"2",
    }
    write(tmp_path, **files)
    target = io.BytesIO()
    with open_source(shard(tmp_path), OPTIONS) as source:
        for row in range(len(source)):
            source.append_to(row, target)
            once = target.getvalue()
    again = io.BytesIO()
    with open_source(shard(tmp_path), OPTIONS) as source:
        for row in range(len(source)):
            source.append_to(row, again)
    assert again.getvalue() == once and len(once) % 512 == 0
    target.write(bytes(1024))
    target.seek(0)
    expander = tariterators.tar_file_expander([{"url": "x", "stream": target}])
    read = list(tariterators.group_by_keys(expander))
    assert [(s["__key__"], s["jpg"]) for s in read] == [
        ("a/0", b"0"),
        ("long/" * 40 + "2", b"2"),
        ("v1_2 final", b"1"),
    ]
    target.seek(0)
    with tarfile.open(fileobj=target) as tar:
        assert [info.mode for info in tar] == [0o644] * 4


def test_keys_that_a_tar_cannot_hold() -> None:
    assert [tar_key(key) for key in ("a/b.c", "/etc/x", "../../x", "http://a.b/c.jpg", "..")] == [
        "a/b_c",
        "etc/x",
        "x",
        "http:/a.b/c_jpg",
        "_",
    ]


def test_files_that_cannot_be_read_are_rows(tmp_path: Path) -> None:
    write(tmp_path, **{"0.jpg": b"0", "1.jpg": b"1", "2.jpg": b"2"})
    with open_source(shard(tmp_path), OPTIONS) as source:
        (tmp_path / "1.jpg").unlink()  # after it was listed
        with (tmp_path / "2.jpg").open("wb") as file:
            file.truncate(200 * 2**20)
        (chunk,) = source.chunks()
        assert [s.status for s in chunk.samples] == ["ok", "unreadable", "unreadable"]
        assert "1.jpg: there is no such file" in chunk.samples[1].error
        assert "the file has 200 MB, the limit is 128" in chunk.samples[2].error
        with pytest.raises(UnreadableError, match=r"1\.jpg"):
            source.members(1)


def test_names_that_look_like_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "a::b", **{"std::vector.png": b"v", "std::vector.txt": b"t"})
    (one,) = find_shards([str(folder)], OPTIONS)
    assert [(s.key, s.image) for s in samples(one)] == [("std::vector", b"v")]
    monkeypatch.chdir(folder)
    with open_source(shard("."), OPTIONS) as source:
        assert [m.data for m in source.members(0)] == [b"v", b"t"]


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.2")
    write(tmp_path, **{f"{name}.jpg": b"c", f"{name}.txt": b"t", "d.jpg": b"d"})
    (one,) = find_shards([str(tmp_path)], OPTIONS)
    with open_source(one, OPTIONS) as source:
        (chunk,) = source.chunks()
        assert list(chunk.samples) == [
            Sample("caf\\udce9.2", b"c", "caf\\udce9.2.jpg"),
            Sample("d", b"d", "d.jpg"),
        ]
        assert chunk.metadata.to_pydict() == {"txt": ["t", None]}
        assert dict(source.notes) == {}
        target = io.BytesIO()
        source.append_to(0, target)
        (tmp_path / f"{name}.jpg").unlink()
        (chunk,) = source.chunks()
        assert chunk.samples[0].status == "unreadable"
        assert chunk.samples[0].error.endswith("caf\\udce9.2.jpg: there is no such file")
    target.write(bytes(1024))
    target.seek(0)
    with tarfile.open(fileobj=target) as tar:
        assert tar.getnames() == ["caf\\udce9_2.jpg", "caf\\udce9_2.txt"]


def test_files_beside_an_image_have_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aesthetic_curate.folders.MAX_FILE_BYTES", 1000)
    write(tmp_path, **{"0.jpg": b"0", "0.npy": b"n" * 2000, "0.txt": b"t", "1.jpg": b"1" * 2000})
    with open_source(shard(tmp_path), OPTIONS) as source:
        (tmp_path / "0.txt").unlink()  # after it was listed
        assert [(m.extension, m.data) for m in source.members(0)] == [
            ("jpg", b"0"),
            ("npy", b"n" * 2000),
        ]
        assert source.notes["unreadable_files"] == 1
        target = io.BytesIO()
        source.append_to(0, target)
        with pytest.raises(UnreadableError, match=r"1\.jpg: the file has"):
            source.append_to(1, target)
    target.write(bytes(1024))
    target.seek(0)
    with tarfile.open(fileobj=target) as tar:
        assert tar.getnames() == ["0.jpg", "0.npy"]


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="none: there is no such folder"):
        samples(shard(tmp_path / "none"))


def test_remote_folders_keep_their_order(memory: str) -> None:
    fs = fsspec.filesystem("memory")
    for index in range(300):
        fs.pipe_file(f"/bucket/{index:04d}.jpg", str(index).encode())
        fs.pipe_file(f"/bucket/{index:04d}.json", b'{"i": %d}' % index)
    with open_source(shard(memory, 5, 295), OPTIONS) as source:
        chunks = list(source.chunks())
        found = [sample for chunk in chunks for sample in chunk.samples]
        assert [s.image for s in found] == [str(index).encode() for index in range(5, 295)]
        fields = [row["i"] for chunk in chunks for row in chunk.metadata.to_pylist()]
        assert fields == list(range(5, 295))
