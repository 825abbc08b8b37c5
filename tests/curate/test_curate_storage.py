"""Results written whole or not at all, inputs at any URL, tries that end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest

from aesthetic_client.errors import InputError
from aesthetic_curate import locations, storage
from aesthetic_curate.errors import OutputError, UnreadableError
from aesthetic_curate.locations import expand, join, list_files, parent, read_file
from aesthetic_curate.storage import Folder, identity, local_copy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "WAITS", (0.0, 0.0))


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> Folder:
    return Folder(tmp_path / "out" if request.param == "local" else memory + "/out")


def write(folder: Folder, name: str, data: bytes) -> None:
    with folder.writing(name) as path:
        path.write_bytes(data)


def test_a_file_appears_when_its_block_ends(folder: Folder) -> None:
    with folder.writing("laion/00000.parquet") as path:
        path.write_bytes(b"half")
        assert folder.names() == []
        assert not folder.exists("laion/00000.parquet")
        path.write_bytes(b"whole")
    assert folder.exists("laion/00000.parquet")
    assert folder.read_bytes("laion/00000.parquet") == b"whole"
    with folder.local("laion/00000.parquet") as path:
        assert path.read_bytes() == b"whole"
    assert path.exists() == folder.is_local


def test_a_block_that_fails_leaves_nothing(folder: Folder) -> None:
    write(folder, "a.parquet", b"before")
    with pytest.raises(RuntimeError), folder.writing("a.parquet") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert folder.read_bytes("a.parquet") == b"before"
    assert not path.exists()


def test_names_are_relative_and_sorted(folder: Folder) -> None:
    for name in ("b_stats.json", "a/1_stats.json", "a/1.parquet", "a/c/0_stats.json"):
        write(folder, name, b"x")
    assert folder.names("_stats.json") == ["a/1_stats.json", "a/c/0_stats.json", "b_stats.json"]
    assert folder.names() == ["a/1.parquet", "a/1_stats.json", "a/c/0_stats.json", "b_stats.json"]
    folder.remove("b_stats.json")
    folder.remove("b_stats.json")  # a second time is no error
    assert folder.names("b_stats.json") == []
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("b_stats.json")


def test_a_folder_that_is_not_there_is_empty(folder: Folder) -> None:
    assert folder.names() == []
    assert not folder.exists("a")


def test_sweep_removes_what_dead_processes_left(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    alive = os.getppid()
    host = storage._HOST
    relics = [
        f".a.parquet.{host}-{dead.pid}-7.tmp",
        f".a.parquet.{host}-{dead.pid}-7.tmp.wider",
        f".a.parquet.{host}-{os.getpid()}-99999.tmp",
    ]
    relics.append(f"{relics[0]}.wider")
    others = [
        f".a.parquet.{host}-{alive}-0.tmp",
        f".a.parquet.elsewhere-{dead.pid}-0.tmp",
        f".b.parquet.{host}-{dead.pid}-0.tmp",
        f".a.parquet.parquet.{host}-{dead.pid}-0.tmp",
    ]
    (tmp_path / "sub").mkdir()
    for name in (*relics, *others):
        (tmp_path / "sub" / name).write_bytes(b"half")
    folder = Folder(tmp_path)
    with folder.writing("sub/a.parquet") as own:
        beside = own.with_name(own.name + ".wider")
        beside.write_bytes(b"in use")
        folder.sweep("sub/a.parquet")
        assert own.exists() and beside.exists()
        beside.unlink()
    left = {path.name for path in (tmp_path / "sub").iterdir()}
    assert left == {*others, "a.parquet"}
    assert folder.names() == ["sub/a.parquet"]


def test_a_zombie_writes_no_more(tmp_path: Path) -> None:
    zombie = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # it ended, and stays listed
    (tmp_path / f".a.{storage._HOST}-{zombie.pid}-0.tmp").write_bytes(b"half")
    Folder(tmp_path).sweep("a")
    assert list(tmp_path.iterdir()) == []
    zombie.wait()


def test_relics_that_may_not_be_removed_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    relic = tmp_path / f".a.{storage._HOST}-{dead.pid}-0.tmp"
    relic.write_bytes(b"of another user, in a sticky folder")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refused)
    Folder(tmp_path).sweep("a")
    assert relic.exists()


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="process namespaces of Linux")
def test_containers_of_one_host_name_are_told_apart(tmp_path: Path) -> None:
    namespace = os.stat("/proc/self/ns/pid").st_ino
    with Folder(tmp_path).writing("a") as path:
        assert f"-{namespace}-{os.getpid()}-" in path.name
        assert Folder(tmp_path).names() == []


def test_one_sweep_of_all_files(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    host = storage._HOST
    (tmp_path / "sub").mkdir()
    for name in (f".a.tar.{host}-{dead.pid}-0.tmp", f"sub/.b.parquet.{host}-{dead.pid}-1.tmp"):
        (tmp_path / name).write_bytes(b"half")
    others = [f".c.tar.{host}-{os.getppid()}-0.tmp", ".hidden", "d.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"not ours, or not dead")
    Folder(tmp_path).sweep_all()
    assert {path.name for path in tmp_path.iterdir()} == {*others, "sub"}
    assert not list((tmp_path / "sub").iterdir())


def test_sweep_of_a_new_folder_does_nothing(tmp_path: Path) -> None:
    Folder(tmp_path / "none").sweep("x/a.parquet")
    assert not (tmp_path / "none").exists()


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with (
        pytest.raises(OutputError, match=r"a\.parquet: cannot be written: the disk is full"),
        folder.writing("a.parquet") as path,
    ):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_block_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), Folder(tmp_path).writing("a"):
        raise PermissionError(errno.EACCES, "an input", "input.tar")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name, reason in (
        ("file/a.parquet", "not a folder|a folder is needed"),
        ("x" * 300, "long"),
    ):
        with pytest.raises(OutputError, match=reason), Folder(tmp_path).writing(name):
            pytest.fail("the block ran")


def test_the_write_of_a_missing_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="no right to write"):
        write(Folder(tmp_path), "a", b"x")
    assert list(tmp_path.iterdir()) == []


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


def test_threads_write_different_files_at_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    threads = [
        threading.Thread(target=write, args=(folder, f"d/{index % 4}", b"%d" % (index % 4) * 999))
        for index in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.names() == ["d/0", "d/1", "d/2", "d/3"]
    assert folder.read_bytes("d/3") == b"3" * 999
    assert len(list((tmp_path / "d").iterdir())) == 4
