"""What a filter is asked to do: its settings, and the rows of each output shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from aesthetic_client.errors import InputError
from aesthetic_curate.columns import KEY, STATUS
from aesthetic_curate.results import ScoredShard
from aesthetic_curate.selection import Rows
from aesthetic_curate.shard_files import PARQUET, STATS, TAR

FORMAT = 1  # of a filtered data set


@dataclass(frozen=True)
class Settings:
    """What determines the output beside the choice of rows."""

    samples_per_shard: int = 10_000
    keep_keys: bool = False
    old_key_column: str = "old_key"
    add_json: bool = False
    metadata_only: bool = False


@dataclass(frozen=True)
class Piece:
    """Rows of a scored shard that come one after another in an output shard."""

    scored: ScoredShard
    rows: Rows


@dataclass(frozen=True)
class OutputShard:
    """The rows of one output shard, in order."""

    number: int
    name: str
    pieces: tuple[Piece, ...]

    @property
    def samples(self) -> int:
        return sum(len(piece.rows) for piece in self.pieces)


@dataclass(frozen=True)
class FilterJob:
    """What a worker needs. `schema` holds the columns of all scored shards, before new keys."""

    scored: str
    out: str
    settings: Settings
    fingerprint: str
    scored_fingerprint: str
    key_digits: int  # of a sample's number within its shard
    schema: pa.Schema
    outputs: tuple[str, ...]  # score columns
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of an output shard's files; the last one marks it done."""
        return (*(() if self.settings.metadata_only else (TAR,)), PARQUET, STATS)

    def new_keys(self, output: OutputShard) -> list[str]:
        return [f"{output.name}{index:0{self.key_digits}d}" for index in range(output.samples)]


def check_old_key_column(name: str, outputs: Sequence[str]) -> None:
    """Raises InputError for a name that a column of ours has."""
    if not name or name in (KEY, STATUS, *outputs):
        raise InputError(f"--old-key-column {name!r}: choose a name that no column of ours has")
