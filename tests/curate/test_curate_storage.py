"""Results written whole or not at all, and swept where a process died."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from curate_files import write

from aesthetic_curate import storage
from aesthetic_curate.errors import OutputError
from aesthetic_curate.storage import Folder


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> Folder:
    return Folder(tmp_path / "out" if request.param == "local" else memory + "/out")


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
