"""Fixtures of the room curate."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows of stored embeddings in a chunk, for tests of what comes between two of them."""
    from aesthetic_curate import embedding_tables, embeddings

    for module in (embedding_tables, embeddings):
        monkeypatch.setattr(module, "EMBEDDING_CHUNK_ROWS", 16)
    return 16


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty fsspec folder that is not local."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield "memory://bucket"
    fs.store.clear()
