"""Fixtures for all rooms."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aesthetic_client.paths import cache_dir

if TYPE_CHECKING:
    from aesthetic_serve import EmbeddedServer
    from gradients import GradientExport

ROOT = Path(__file__).parents[1]
# As our packages do (tests/test_telemetry.py), for tests that import OpenVINO before them.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# Before numba reads it: tests with a cache of their own would compile the kernels anew.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_dir() / "numba"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real heads, embeddings, golden scores, images; $AESTHETIC_TEST_DATA names the folder."""
    folder = Path(os.environ.get("AESTHETIC_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "golden_scores.json").is_file():
        pytest.skip(f"no test data in {folder}: set AESTHETIC_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def photographs(shared_data: Path) -> list[Path]:
    """The real photographs, PNG and JPEG."""
    files = sorted(path for path in (shared_data / "images").rglob("*") if path.is_file())
    assert len(files) > 20
    return files


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A served tower of two layers in the true outer shape, with seeded heads."""
    from towers import build_tiny_repository

    return build_tiny_repository(tmp_path_factory.mktemp("tiny") / "repository")


@pytest.fixture(scope="session")
def tiny_cpu_repository(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny repository with the profiles bf16 and int8."""
    from towers import add_cpu_profiles

    return add_cpu_profiles(
        shutil.copytree(tiny_repository, tmp_path_factory.mktemp("tiny-cpu") / "repository")
    )


@pytest.fixture(scope="session")
def full_repository(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole ViT-L/14 of seed 0 with the real heads, exported by the command; takes a minute."""
    folder = tmp_path_factory.mktemp("full")
    target = folder / "repository"
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "aesthetic_client.cli", "export"),
            *("--weights", "seeded:0", "--repository", target),
            *("--weights-dir", shared_data / "heads"),
        ],
        env={**os.environ, "AESTHETIC_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{target}\n"
    return target


@pytest.fixture(scope="session")
def gradient_export(tmp_path_factory: pytest.TempPathFactory) -> GradientExport:
    """`aesthetic_gradient` of the tiny tower: its version folder, its report, its provenance."""
    from gradients import export_tiny_gradient

    return export_tiny_gradient(tmp_path_factory.mktemp("gradient"))


@pytest.fixture(scope="session")
def tiny_server(tiny_repository: Path) -> Iterator[EmbeddedServer]:
    """The real Triton over the tiny tower, for tests that do not harm it."""
    from aesthetic_serve import EmbeddedServer

    with EmbeddedServer(tiny_repository) as server:
        yield server
