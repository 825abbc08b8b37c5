"""Whose leftovers may be swept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aesthetic_serve import runs


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A shared-memory folder and a temporary folder of the test's own."""
    (tmp_path / "shm").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(runs, "SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr(runs, "_bases", lambda: iter([tmp_path / "tmp"]))
    yield tmp_path


def leave(places: Path, name: str) -> None:
    (places / "shm" / f"{name}region").write_bytes(b"x")
    (places / "tmp" / f"{name}folder").mkdir()


def left(places: Path) -> set[str]:
    return {path.name.rpartition("-")[0] + "-" for path in places.glob("*/*")}


def test_a_dead_runs_things_go_and_all_others_stay(places: Path) -> None:
    # Its name came from a process that has ended since.
    code = "from aesthetic_serve.runs import new_name; print(new_name())"
    dead = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()
    mine = runs.new_name()
    _, space, pid, start, nonce, _ = mine.split("-")
    recycled_pid = f"aesthetic-{space}-{pid}-{int(start) - 1}-{nonce}-"
    elsewhere = f"aesthetic-1-{pid}-{int(start) - 1}-{nonce}-"  # another container's
    foreign = "aesthetic-of-somebody-"
    for name in (dead, mine, recycled_pid, elsewhere, foreign):
        leave(places, name)
    runs.sweep_dead_runs()
    assert left(places) == {mine, elsewhere, foreign}


def test_a_run_sweeps_its_own_only(places: Path) -> None:
    first, second = runs.new_name(), runs.new_name()
    assert first != second
    leave(places, first)
    leave(places, second)
    runs.sweep(first)
    assert left(places) == {second}
    assert runs.leftovers(first) == []
    assert len(runs.leftovers(second)) == 2


def test_folders_are_private_and_plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd = tmp_path / "a b"
    odd.mkdir()
    monkeypatch.setattr(runs.tempfile, "tempdir", str(odd))
    folder = runs.new_folder(runs.new_name())
    try:
        assert " " not in str(folder)  # the server would hand it to a shell
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        os.rmdir(folder)
