"""A shard: the unit of work of a run, and of what is redone after a crash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# tar: a WebDataset tar. folder: image files below a folder. table: a parquet with a column of image
# bytes, paths or URLs. embeddings: a parquet with a column of embeddings, or an .npy of them.
Kind = Literal["tar", "folder", "table", "embeddings"]


@dataclass(frozen=True)
class Shard:
    """What is read, and the name of what is written.

    `name` is the stem of the output files, relative to the output folder ("00012",
    "laion/part-0-00003"). `url` is a local path or an fsspec URL. `start` and `stop` cut a table's
    or an array's rows, and a folder's samples in the order of their keys; `stop=None` is the end.
    `metadata_url` is the parquet of the samples' metadata, where it lies beside (NNNNN.parquet of
    NNNNN.tar, metadata_N.parquet of img_emb_N.npy). `keys_sha256` is a folder's: its own date does
    not tell of files that come or go further down.
    """

    name: str
    kind: Kind
    url: str
    start: int = 0
    stop: int | None = None
    metadata_url: str | None = None
    keys_sha256: str | None = None
