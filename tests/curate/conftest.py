"""Fixtures of the room curate."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty fsspec folder that is not local."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield "memory://bucket"
    fs.store.clear()
