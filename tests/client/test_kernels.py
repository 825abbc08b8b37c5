"""Where kernels are compiled and kept, and what happens where they cannot be: fresh processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

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


def begin(folder: Path, *words: str, **variables: str) -> subprocess.Popen[bytes]:
    """A process that imports the package from the folder, its caches where the variables say."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", PROGRAM, *words],
        env={**kept, "PYTHONPATH": str(folder), **variables},
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
    first = [begin(PACKAGE.parent, NUMBA_CACHE_DIR=str(cache)) for _ in range(2)]
    assert [end(process)[0] for process in first] == ["True", "True"]
    assert {file.suffix for file in cache.rglob("*") if file.is_file()} == {".nbi", ".nbc"}
    assert end(begin(PACKAGE.parent, NUMBA_CACHE_DIR=str(cache))) == ("True", "2")


def test_without_a_folder_to_write_to_it_compiles_anew(tmp_path: Path) -> None:
    """Files stand where folders would be made: root, as whom tests may run, may write anywhere."""
    copied = tmp_path / "package"
    shutil.copytree(PACKAGE, copied / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    (copied / PACKAGE.name / "__pycache__").touch()
    taken = tmp_path / "taken"
    taken.touch()
    process = begin(copied, NUMBA_CACHE_DIR=str(taken), XDG_CACHE_HOME=str(taken))
    assert end(process) == ("True", "0")
    assert taken.stat().st_size == 0


@pytest.mark.parametrize("how", ["not installed", "compiles nothing"])
def test_without_numba_pillow_resizes(how: str) -> None:
    if how == "not installed":
        process = begin(PACKAGE.parent, "no-numba")
    else:
        process = begin(PACKAGE.parent, NUMBA_DISABLE_JIT="1")
    assert end(process) == ("False", "0")


def test_the_precision_is_one_number() -> None:
    kernels = _resample._kernels()
    assert kernels is not None and _resample.ONE == 1 << kernels.PRECISION_BITS
