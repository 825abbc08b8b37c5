"""Where kernels are compiled and kept, and what happens where they cannot be."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import aesthetic_client
from aesthetic_client import _resample
from generated_images import encoded, texture

PACKAGE = Path(aesthetic_client.__file__).parent
PHOTO = Image.fromarray(texture(700, 500, 3))
# Two threads at once, on the first image of a process; then where the kernels came from.
PROGRAM = """
import io, sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

if "no-numba" in sys.argv:
    sys.modules["numba"] = None
from aesthetic_client import _resample, prepare_pixels

assert "numba" not in sys.modules or sys.modules["numba"] is None
data = sys.stdin.buffer.read()
with ThreadPoolExecutor(2) as pool:
    found = pool.map(prepare_pixels, [data] * 2)
digests = {sha256(pixels.tobytes()).hexdigest() for pixels in found}
used, hits = _resample.equals_pillow(), 0
if used:
    kernels = _resample._kernels()
    for kernel in (kernels.across, kernels.down):
        hits += sum(kernel.stats.cache_hits.values())
print(*digests, used, hits)
"""


def begin(*words: str, **variables: str) -> subprocess.Popen[bytes]:
    """A process whose caches are where the variables say."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", PROGRAM, *words],
        env={**kept, "PYTHONPATH": str(PACKAGE.parent), **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(encoded(PHOTO, "PNG"))
    process.stdin.close()
    process.stdin = None
    return process


def end(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Whether the kernels were used, and how many came from a cache; the pixels are Pillow's."""
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    digest, used, hits = out.decode().split()
    resized = PHOTO.resize((313, 224), Image.Resampling.BICUBIC).crop((44, 0, 268, 224))
    assert digest == sha256(np.asarray(resized).tobytes()).hexdigest()
    return used, hits


def test_processes_that_start_at_once_share_what_was_compiled(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = [begin(NUMBA_CACHE_DIR=str(cache)) for _ in range(2)]
    assert [end(process)[0] for process in first] == ["True", "True"]
    assert {file.suffix for file in cache.rglob("*") if file.is_file()} == {".nbi", ".nbc"}
    assert end(begin(NUMBA_CACHE_DIR=str(cache))) == ("True", "2")


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, int]]:
    """Compiles a small function, kept in tmp_path / "numba"; what it makes of 20, cache hits."""
    kernels = _resample._kernels()
    monkeypatch.setattr(kernels.config, "CACHE_DIR", "")  # as where $NUMBA_CACHE_DIR is not set
    monkeypatch.setenv("AESTHETIC_CACHE", str(tmp_path))

    def compile_and_call() -> tuple[int, int]:
        kernel = kernels._compiled(kernels.types.int64[::1])(_double)
        values = np.array([20])
        kernel(values)
        return int(values[0]), sum(kernel.stats.cache_hits.values())

    return compile_and_call


def _double(values: Any) -> None:
    values[0] = values[0] * 2


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.rglob(f"*{suffix}"))


@pytest.mark.parametrize("suffix", [".nbc", ".nbi"])
def test_a_broken_file_is_written_anew(
    compiled: Callable[[], tuple[int, int]], tmp_path: Path, suffix: str
) -> None:
    assert [compiled(), compiled()] == [(40, 0), (40, 1)]
    (broken,) = files(tmp_path / "numba", suffix)
    whole = broken.stat().st_size
    broken.write_bytes(broken.read_bytes()[: whole // 2] if suffix == ".nbi" else b"")
    assert compiled() == (40, 0)
    assert abs(broken.stat().st_size - whole) < whole / 10
    assert compiled() == (40, 1)


def test_each_kind_of_cpu_has_a_folder(
    compiled: Callable[[], tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = _resample._kernels()
    assert compiled() == (40, 0)
    monkeypatch.setattr(kernels.config, "CPU_NAME", "another")
    kernels._keep(kernels.njit(_double))
    kept, (own,) = list((tmp_path / "numba").iterdir()), files(tmp_path, ".nbc")
    assert len(kept) == 2 and sum(folder in own.parents for folder in kept) == 1
    assert kernels.config.CACHE_DIR == ""


def test_without_a_folder_to_write_to_it_compiles_anew(
    compiled: Callable[[], tuple[int, int]], tmp_path: Path
) -> None:
    """A file stands where the folder would be: root, as whom tests may run, may write anywhere."""
    (tmp_path / "numba").touch()
    assert [compiled(), compiled()] == [(40, 0), (40, 0)]
    assert [path.name for path in tmp_path.iterdir()] == ["numba"]


def test_a_full_disk_keeps_nothing(
    compiled: Callable[[], tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numba.core.caching import IndexDataCacheFile

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(IndexDataCacheFile, "_save_data", full)
    assert compiled() == (40, 0) and not files(tmp_path, ".nbc")


FORKED = """
import os, signal, threading
from aesthetic_client import _resample, pixels

found, begun, go = _resample._kernels, threading.Event(), threading.Event()

def slowly():
    begun.set()
    go.wait()
    return found()

_resample._kernels = slowly
compiling = threading.Thread(target=pixels.warm_up)
compiling.start()
begun.wait()

def child():
    signal.alarm(20)  # ends it if it waits for ever
    why = pixels.warm_up()
    os._exit(0 if why and "forked" in why and not _resample.takes((600, 600)) else 1)

process = os.fork() or child()
assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
go.set()
compiling.join()
assert pixels.warm_up() is None
with _resample._trying:  # what was found before is the child's too
    process = os.fork() or os._exit(pixels.warm_up() is not None)
assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_while_another_thread_compiles_does_not_wait_for_ever() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", ["not installed", "compiles nothing"])
def test_without_numba_pillow_resizes(how: str) -> None:
    process = begin("no-numba") if how == "not installed" else begin(NUMBA_DISABLE_JIT="1")
    assert end(process) == ("False", "0")


def test_the_precision_is_one_number() -> None:
    kernels = _resample._kernels()
    assert _resample.ONE == 1 << kernels.PRECISION_BITS
