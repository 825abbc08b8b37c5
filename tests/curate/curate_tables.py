"""Parquets of images, and the samples that are read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aesthetic_curate.opening import open_source
from aesthetic_curate.options import InputOptions
from aesthetic_curate.samples import Chunk, Sample
from aesthetic_curate.shards import Shard

OPTIONS = InputOptions()


def table(path: Path, start: int = 0, stop: int | None = None) -> Shard:
    return Shard(path.stem, "table", str(path), start, stop)


def write(path: Path, columns: dict[str, Any], row_group_size: int = 1000) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def chunks(shard: Shard, options: InputOptions = OPTIONS) -> list[Chunk]:
    with open_source(shard, options) as source:
        found = list(source.chunks())
        assert sum(len(chunk.samples) for chunk in found) == len(source)
    return found


def samples(shard: Shard, options: InputOptions = OPTIONS) -> list[Sample]:
    return [sample for chunk in chunks(shard, options) for sample in chunk.samples]
