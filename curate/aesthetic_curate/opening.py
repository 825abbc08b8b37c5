"""A shard's reader, by its kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from aesthetic_curate.options import InputOptions
from aesthetic_curate.samples import Source
from aesthetic_curate.shards import Shard


@contextmanager
def open_source(shard: Shard, options: InputOptions) -> Iterator[Source]:
    """The samples of a tar, a folder or a table, for the block. Raises UnreadableError."""
    with closing(_source(shard, options)) as source:
        yield source


def _source(shard: Shard, options: InputOptions) -> Source:
    if shard.kind == "tar":
        from aesthetic_curate.tars import TarSource

        return TarSource(shard, options)
    if shard.kind == "folder":
        from aesthetic_curate.folders import FolderSource

        return FolderSource(shard, options)
    if shard.kind == "table":
        from aesthetic_curate.tables import TableSource

        return TableSource(shard, options)
    raise ValueError(f"{shard.name}: {shard.kind} holds no images")
