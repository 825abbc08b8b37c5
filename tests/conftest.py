"""Fixtures for all rooms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aesthetic_serve import EmbeddedServer

ROOT = Path(__file__).parents[1]


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
def tiny_server(tiny_repository: Path) -> Iterator[EmbeddedServer]:
    """The real Triton over the tiny tower, for tests that do not harm it."""
    from aesthetic_serve import EmbeddedServer

    with EmbeddedServer(tiny_repository) as server:
        yield server
