"""Kill it, cut it off, fill the disk: the output is that of a run that nothing disturbed."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from curate_commands import all_files, curate, hashes, rows_of, started, stats_of
from curate_datasets import img2dataset, jpegs

from aesthetic_serve import EmbeddedServer

pytestmark = [pytest.mark.triton, pytest.mark.timeout(590)]

SHARDS, SAMPLES = 24, 101  # and one more a shard that failed to download
KILLS = 10


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    img2dataset(folder, shards=SHARDS, samples=SAMPLES + 1, images=jpegs(64))
    return folder


@pytest.fixture(scope="module")
def threshold(undisturbed: tuple[Path, float]) -> float:
    return undisturbed[1]


@pytest.fixture(scope="module")
def undisturbed(
    dataset: Path, tiny_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float]:
    """The output of a run that nothing disturbs, with a tar of about half the samples.

    The threshold lies in the widest gap between the middle scores: one that a batch of another
    size moves by its last digit must not cross it.
    """
    first, out = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("undisturbed")
    one = curate("score", dataset / "00000.tar", "-o", first, "--url", tiny_server.grpc_url)
    assert one.returncode == 0, one.stderr
    scores = sorted(
        row["aesthetic_score"] for row in rows_of(first)["00000"] if row["status"] == "ok"
    )
    middle = scores[len(scores) // 4 : -len(scores) // 4]
    gap, low = max((b - a, a) for a, b in itertools.pairwise(middle))
    assert gap > 1e-4
    done = curate(*command(dataset, out, tiny_server, low + gap / 2))
    assert done.returncode == 0, done.stderr
    return out, low + gap / 2


def command(dataset: Path, out: Path, server: EmbeddedServer, threshold: float) -> list[object]:
    return [
        *("score", dataset, "-o", out, "--url", server.grpc_url),
        *("--heads", "all", "--tar-min", threshold),
    ]


def assert_same(out: Path, expected: Path) -> None:
    """Row for row, tars byte for byte, and nothing else in the folder."""
    assert all_files(out) == all_files(expected)
    assert hashes(out, ".tar") == hashes(expected, ".tar")
    found = rows_of(out)
    for name, rows in rows_of(expected).items():
        assert len(found[name]) == len(rows)
        for one, other in zip(found[name], rows, strict=True):
            assert one == {
                column: value if not isinstance(value, float) else pytest.approx(value, abs=2e-4)
                for column, value in other.items()
            }
    for name, stats in stats_of(expected).items():
        again = stats_of(out)[name]
        for field in ("samples", "statuses", "notes", "kept", "fingerprint"):
            assert again[field] == stats[field]


def test_ten_kills(
    dataset: Path, undisturbed: tuple[Path, float], tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    """Half of the kills hit the whole process group, half the main process alone."""
    expected, threshold = undisturbed
    chance = random.Random(0)
    done_after = []
    for kill in range(KILLS):
        run = started(*command(dataset, tmp_path, tiny_server, threshold))
        time.sleep(chance.uniform(1.0, 3.5))
        if kill % 2:
            os.killpg(run.pid, signal.SIGKILL)
        else:
            run.kill()
        run.communicate(timeout=30)
        done_after.append(len(stats_of(tmp_path)))
    assert done_after == sorted(done_after), "a kill undid a shard that was done"
    assert sum(done < SHARDS for done in done_after) >= 5, "the kills came too late to matter"
    rest = curate(*command(dataset, tmp_path, tiny_server, threshold))
    assert rest.returncode == 0, rest.stderr
    assert_same(tmp_path, expected)


def test_the_server_restarts_three_times(
    dataset: Path, undisturbed: tuple[Path, float], tmp_path: Path, tiny_repository: Path
) -> None:
    expected, threshold = undisturbed
    with EmbeddedServer(tiny_repository) as server:
        run = started(*command(dataset, tmp_path, server, threshold))
        stderr: list[str] = []
        reader = threading.Thread(target=lambda: stderr.append(run.communicate()[1]))
        reader.start()
        for _ in range(3):
            before, done = server.restarts, len(stats_of(tmp_path))
            wait_for(lambda done=done: len(stats_of(tmp_path)) > done)
            os.kill(server.pid, signal.SIGKILL)
            wait_for(lambda before=before: server.restarts > before)
        assert run.poll() is None, "the run ended before the third restart"
        reader.join(240)
    assert run.returncode == 0, stderr
    assert_same(tmp_path, expected)


def wait_for(condition: object, timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.5 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_run_resumably(
    dataset: Path, undisturbed: tuple[Path, float], small_disk: Path, tiny_server: EmbeddedServer
) -> None:
    expected, threshold = undisturbed
    arguments = command(dataset, small_disk, tiny_server, threshold)
    run = curate(*arguments)
    assert run.returncode == 2
    assert "cannot be written: the disk is full" in run.stderr
    assert "Traceback" not in run.stderr
    assert not [name for name in all_files(small_disk) if name.endswith(".tmp")]
    assert 0 < len(stats_of(small_disk)) < SHARDS
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert curate(*arguments).returncode == 0
    assert_same(small_disk, expected)
