"""Inputs at any URL: copies, tries that end, changes, patterns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from curate_files import write

from aesthetic_client.errors import InputError
from aesthetic_curate import locations, storage
from aesthetic_curate.errors import OutputError, UnreadableError
from aesthetic_curate.locations import expand, join, list_files, parent, read_file
from aesthetic_curate.storage import Folder, identity, local_copy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "WAITS", (0.0, 0.0))


def test_local_copy_of_a_local_file_is_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"x")
    with local_copy(str(path)) as copy, local_copy(f"file://{path}") as same:
        assert copy == same == path
    assert path.exists()
    with pytest.raises(UnreadableError, match="there is no such file"), local_copy("none.tar"):
        pass


def test_copies_that_a_killed_process_left_are_swept(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write(Folder(memory), "0.tar", b"blocks")
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    relic = tmp_path / f".aesthetic-copy.{storage._HOST}-{dead.pid}-0.tmp"
    relic.write_bytes(b"half")
    with local_copy(memory + "/0.tar") as one, local_copy(memory + "/0.tar") as other:
        assert sorted(tmp_path.iterdir()) == sorted([one, other])
    assert list(tmp_path.iterdir()) == []


def test_local_copy_of_a_url_lives_as_long_as_the_block(memory: str) -> None:
    write(Folder(memory), "0.tar", b"blocks")
    with local_copy(memory + "/0.tar") as copy:
        assert copy.read_bytes() == b"blocks"
    assert not copy.exists()
    with pytest.raises(UnreadableError, match="no such file"), local_copy(memory + "/1.tar"):
        pass


def test_a_url_is_tried_again_a_few_times(
    memory: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Folder(memory), "0.tar", b"blocks")
    fs = fsspec.filesystem("memory")
    original, calls = type(fs).get_file, []

    def failing(self: object, *arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) <= fails:
            raise ConnectionError("reset by peer")
        return original(self, *arguments, **options)

    monkeypatch.setattr(type(fs), "get_file", failing)
    fails = 2
    with local_copy(memory + "/0.tar") as copy:
        assert copy.read_bytes() == b"blocks"
    assert len(calls) == 3
    calls.clear()
    fails = 99
    with (
        pytest.raises(UnreadableError, match=r"0\.tar: reset by peer"),
        local_copy(memory + "/0.tar"),
    ):
        pass
    assert len(calls) == 3


def test_an_upload_that_fails_is_an_output_error(
    memory: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", failing)
    with pytest.raises(OutputError, match="reset by peer"):
        write(Folder(memory), "a", b"x")


def test_a_removal_that_fails_is_an_output_error(
    memory: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise ConnectionError("reset by peer")

    write(Folder(memory), "a", b"x")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "rm_file", failing)
    with pytest.raises(OutputError, match="reset by peer"):
        Folder(memory).remove("a")


@pytest.mark.parametrize("field", ["Last-Modified", "last_modified", "updated"])
def test_dates_of_the_web_azure_and_gcs_tell_a_change(
    field: str, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = {"size": 6, field: "Wed, 21 Oct 2015 07:28:00 GMT"}
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", lambda *_: info)
    found = identity(memory + "/0.tar")
    assert found == {"url": memory + "/0.tar", "bytes": 6, "modified": info[field]}


def test_unknown_schemes_say_so() -> None:
    with pytest.raises(InputError, match="nosuch"), local_copy("nosuch://a/b.tar"):
        pass


def test_identity_changes_with_the_file(tmp_path: Path, memory: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"12345")
    os.utime(path, (0, 1_700_000_000))
    expected = {"url": str(path), "bytes": 5, "modified": "2023-11-14T22:13:20+00:00"}
    assert identity(str(path)) == expected
    assert identity(f"file://{path}") == expected
    assert identity(str(tmp_path))["bytes"] is None
    write(Folder(memory), "0.tar", b"blocks")
    remote = identity(memory + "/0.tar")
    assert remote["bytes"] == 6 and remote["modified"].startswith("20")
    for gone in (str(tmp_path / "none"), memory + "/none"):
        with pytest.raises(UnreadableError, match="no such file"):
            identity(gone)


def test_braces_and_globs(tmp_path: Path, memory: str) -> None:
    for name in ("00000.tar", "00001.tar", "00002.tar", "x.json", "a[1].tar", "b{1}.tar"):
        (tmp_path / name).write_bytes(b"")
        write(Folder(memory), name, b"")
    base = str(tmp_path)
    assert expand(f"{base}/{{00001..00003}}.tar") == [
        f"{base}/{index:05d}.tar" for index in (1, 2, 3)
    ]
    assert expand(f"{base}/0000?.tar") == [f"{base}/{index:05d}.tar" for index in (0, 1, 2)]
    assert expand(f"{base}/{{00001.tar,*.json}}") == [f"{base}/00001.tar", f"{base}/x.json"]
    # A file that exists is meant, whatever its name looks like.
    assert expand(f"{base}/a[1].tar") == [f"{base}/a[1].tar"]
    assert expand(f"{base}/b{{1}}.tar") == [f"{base}/b{{1}}.tar"]
    assert expand(f"{base}/*.csv") == []
    assert expand(f"file://{base}/0000[01].tar") == [f"{base}/00000.tar", f"{base}/00001.tar"]
    assert expand(memory + "/{00001..00002}.tar") == [memory + f"/0000{i}.tar" for i in (1, 2)]
    found = expand(memory + "/0*.tar")
    assert [read_file(url, 10) for url in found] == [b"", b"", b""]
    assert expand("http://host.test/a.tar?part=1") == ["http://host.test/a.tar?part=1"]
    with pytest.raises(InputError, match=r"write .00000"):
        expand("a{0..")


def test_linked_folders_are_listed_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "1.jpg").write_bytes(b"")
    (tmp_path / "a" / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    outside = tmp_path.parent / (tmp_path.name + "-outside")
    outside.mkdir()
    (outside / "2.jpg").write_bytes(b"")
    (tmp_path / "link").symlink_to(outside)
    assert list_files(str(tmp_path)) == ["a/b/1.jpg", "link/2.jpg"]


def test_paths_and_urls_are_joined() -> None:
    assert join("data", "a/b.jpg") == "data/a/b.jpg"
    assert join("data", "/a/b.jpg") == "/a/b.jpg"
    assert join(".", "b.jpg") == "b.jpg"
    assert join("s3://bucket/x/", "b.jpg") == "s3://bucket/x/b.jpg"
    assert join("s3://bucket/x", "/b.jpg") == "s3://bucket/x//b.jpg"
    assert join("data", "http://host.test/b.jpg") == "http://host.test/b.jpg"
    assert [parent(path) for path in ("a/b.tar", "/b.tar", "b.tar")] == ["a", "/", "."]


def test_files_over_the_limit_are_not_read(tmp_path: Path, memory: str) -> None:
    path = tmp_path / "big.jpg"
    path.write_bytes(b"x" * 101)
    write(Folder(memory), "big.jpg", b"x" * 101)
    for url in (str(path), memory + "/big.jpg"):
        assert len(read_file(url, 101)) == 101
        with pytest.raises(UnreadableError, match="the limit is"):
            read_file(url, 100)
