"""Stored embeddings as they are read, in forms that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from aesthetic_curate.embeddings import open_embeddings
from aesthetic_curate.options import InputOptions
from aesthetic_curate.samples import EmbeddingChunk
from aesthetic_curate.shards import Shard

OPTIONS = InputOptions()
ROWS = 50


def read(
    url: Path,
    options: InputOptions = OPTIONS,
    *,
    start: int = 0,
    stop: int | None = None,
    metadata: Path | None = None,
) -> list[EmbeddingChunk]:
    """All chunks of a shard; their rows are as many as the source says."""
    beside = None if metadata is None else str(metadata)
    shard = Shard("name", "embeddings", str(url), start, stop, beside)
    with open_embeddings(shard, options) as source:
        chunks = list(source.chunks())
        assert sum(len(chunk.keys) for chunk in chunks) == len(source)
        assert dict(source.notes) == {}
    for chunk in chunks:
        assert len(chunk.embeddings) == len(chunk.keys)
        assert chunk.metadata is None or chunk.metadata.num_rows == len(chunk.keys)
    return chunks


def vectors(chunks: Sequence[EmbeddingChunk]) -> np.ndarray:
    return np.concatenate([np.empty((0, 768)), *(chunk.embeddings for chunk in chunks)])


def keys(chunks: Sequence[EmbeddingChunk]) -> list[str]:
    return [key for chunk in chunks for key in chunk.keys]


def metadata(chunks: Sequence[EmbeddingChunk]) -> pa.Table:
    return pa.concat_tables([chunk.metadata for chunk in chunks])
