"""Reads a folder of scores: its shards, their statistics, and the rows that are asked for."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aesthetic_client.errors import InputError
from aesthetic_curate.config import FORMAT, essentials, is_seeded
from aesthetic_curate.errors import MixedResultsError, NoSamplesError, UnreadableError
from aesthetic_curate.manifest import read_manifest
from aesthetic_curate.options import InputOptions
from aesthetic_curate.shard_files import PARQUET, STATS
from aesthetic_curate.shards import Shard
from aesthetic_curate.stats import ScoreStats
from aesthetic_curate.storage import READERS, Folder, opened


@dataclass(frozen=True)
class ScoredShard:
    """A shard that is done. `stats` is its stats file, `digest` that file's SHA-256."""

    shard: Shard
    stats: Mapping[str, Any]
    digest: str

    @property
    def name(self) -> str:
        return self.shard.name

    @property
    def samples(self) -> int:
        return int(self.stats["samples"])

    @property
    def options(self) -> InputOptions:
        """How the input was read, so that it can be read the same way again."""
        found: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.stats["options"].items()
        }
        return InputOptions(**found)


class Results:
    """The shards of a scored folder that are done, in the order of their names.

    `unfinished` names the shards of the last run, and parquets, that have no stats file.
    """

    def __init__(
        self, folder: Folder, shards: Sequence[ScoredShard], unfinished: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.shards = list(shards)
        self.unfinished = list(unfinished)

    @classmethod
    def open(cls, url: str) -> Results:
        """Read the stats of all shards, not their rows.

        Raises:
            NoSamplesError: no shard is done there.
            UnreadableError: a stats file that the score command did not write.
            MixedResultsError: shards of different settings, or one input twice.
        """
        folder = Folder(url)
        names = [name.removesuffix(STATS) for name in folder.names(STATS)]
        if not names:
            raise NoSamplesError(
                f"no scores in {url}: it has no *{STATS}, which marks a shard that "
                "`aesthetic curate score` has done"
            )
        with ThreadPoolExecutor(READERS) as readers:
            shards = list(readers.map(lambda name: _read_shard(folder, name), names))
        _check_settings(url, shards)
        _check_inputs(url, shards)
        begun = {name.removesuffix(PARQUET) for name in folder.names(PARQUET)}
        return cls(folder, shards, sorted(begun.union(read_manifest(folder)) - set(names)))

    @property
    def fingerprint(self) -> str:
        """Of the settings and the model, the same for all shards."""
        return str(self.shards[0].stats["fingerprint"])

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the server said of its weights."""
        found: Mapping[str, Any] = self.shards[0].stats["provenance"]
        return found

    @property
    def seeded(self) -> bool:
        """Whether the scores come from random weights and mean nothing."""
        return is_seeded(self.provenance)

    @property
    def heads(self) -> dict[str, str]:
        """Head names by score column, in the order of the columns."""
        scores = self.shards[0].stats["scores"]
        return {output: str(found["head"]) for output, found in scores.items()}

    @property
    def likes(self) -> dict[str, str]:
        """The SHA-256 of the files of `--like`, by score column."""
        return dict(self.shards[0].stats.get("config", {}).get("likes", {}))

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @cached_property
    def statuses(self) -> Counter[str]:
        """How many samples have which status."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.stats["statuses"])
        return total

    @cached_property
    def score_stats(self) -> dict[str, ScoreStats]:
        """Count, mean, deviation, extremes and histogram over all shards, by score column."""
        totals = {output: ScoreStats() for output in self.heads}
        for shard in self.shards:
            for output, found in shard.stats["scores"].items():
                totals[output].merge(ScoreStats.from_json(found))
        return totals

    def output(self, name: str) -> str:
        """The score column of a head, named by the head or by the column. Raises InputError."""
        for output, head in self.heads.items():
            if name in (output, head):
                return output
        scored = ", ".join(self.heads)
        raise InputError(f"no scores of {name!r} in {self.folder.url}: it has {scored}")

    def schema(self, shard: ScoredShard) -> pa.Schema:
        """The columns of a shard's parquet."""
        with self._parquet(shard) as file:
            return file.schema_arrow.remove_metadata()

    def columns(self, shard: ScoredShard, names: Sequence[str]) -> pa.Table:
        """All rows of these columns."""
        with self._parquet(shard) as file:
            return file.read(columns=list(names))

    def scores(self, shard: ScoredShard, output: str) -> NDArray[np.float32]:
        """float32 (samples,); NaN where there is no score."""
        column = self.columns(shard, [output]).column(0).cast(pa.float32())
        return np.asarray(column.to_numpy(), np.float32)

    def rows(
        self, shard: ScoredShard, rows: NDArray[np.integer[Any]], names: Sequence[str] | None = None
    ) -> pa.Table:
        """These rows, ascending, of all or some columns; only their row groups are read."""
        with self._parquet(shard) as file:
            counts = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(counts)])
            parts = [file.schema_arrow.remove_metadata().empty_table()]
            if names is not None:
                parts = [parts[0].select(list(names))]
            for group, (start, stop) in enumerate(itertools.pairwise(starts)):
                low, high = np.searchsorted(rows, (start, stop))
                if low < high:
                    read = file.read_row_group(group, columns=names and list(names))
                    parts.append(read.replace_schema_metadata(None).take(rows[low:high] - start))
            return pa.concat_tables(parts)

    @contextmanager
    def _parquet(self, shard: ScoredShard) -> Iterator[pq.ParquetFile]:
        name = shard.name + PARQUET
        advice = f"remove {shard.name}{STATS} and run the score command again, which redoes it"
        try:
            # A remote file is read in parts: a score column is little of what embeddings take.
            reading = (
                self.folder.local(name) if self.folder.is_local else opened(self.folder.path(name))
            )
            with reading as source, pq.ParquetFile(source) as file:
                if file.metadata.num_rows != shard.samples:
                    raise UnreadableError(
                        f"{self.folder.url}: {name} has {file.metadata.num_rows} rows, and its "
                        f"stats file speaks of {shard.samples}: {advice}"
                    )
                yield file
        except pa.ArrowInvalid as error:
            raise UnreadableError(
                f"{self.folder.url}: {name} is broken ({error}): {advice}"
            ) from None


def _read_shard(folder: Folder, name: str) -> ScoredShard:
    data = folder.read_bytes(name + STATS)
    where = f"{folder.url}: {name}{STATS}"
    try:
        stats = json.loads(data)
    except ValueError:
        raise UnreadableError(
            f"{where} is no JSON: remove it and run the score command again, which redoes the shard"
        ) from None
    if not isinstance(stats, dict) or not isinstance(stats.get("shard"), dict):
        raise UnreadableError(
            f"{where} is not of `aesthetic curate score`: is this its output folder, and not the "
            "data set, or what `aesthetic curate filter` wrote?"
        )
    if stats.get("format") != FORMAT:
        raise UnreadableError(
            f"{where} has format {stats.get('format')}, and this version reads {FORMAT}: "
            "run the score command again, which redoes it"
        )
    # The name is that of the files here, which somebody may have moved together.
    shard = Shard(**{**stats["shard"], "name": name})
    return ScoredShard(shard, stats, hashlib.sha256(data).hexdigest())


def _check_settings(url: str, shards: Sequence[ScoredShard]) -> None:
    """Raises MixedResultsError where shards were scored with different settings."""
    groups: dict[str, list[ScoredShard]] = defaultdict(list)
    for shard in shards:
        groups[str(shard.stats.get("fingerprint"))].append(shard)
    if len(groups) == 1:
        return
    ranked = sorted(groups.items(), key=lambda group: -len(group[1]))
    listed = " and ".join(
        f"{len(group)} (such as {group[0].name}) of the settings {fingerprint[:8]}"
        for fingerprint, group in ranked
    )
    differing = _differences(ranked[0][1][0].stats, ranked[1][1][0].stats)
    raise MixedResultsError(
        f"{url} holds shards of different settings: {listed}"
        + (f"; they differ in {', '.join(differing)}" if differing else "")
        + ". Run the score command again with the settings that you want, which redoes the "
        "others, or give each settings a folder of their own"
    )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Which settings, and what of the models that determines scores, differ, by name."""

    def settings(stats: Mapping[str, Any]) -> dict[str, Any]:
        known = stats.get("provenance", {})
        models = {name: found for name, found in essentials(known).items() if name in known}
        return {part: stats.get(part, {}) for part in ("config", "options")} | {
            "provenance": models
        }

    return _unequal("", settings(one), settings(other))


def _unequal(name: str, one: object, other: object) -> list[str]:
    """The dotted names of what differs, in mappings as deep as both sides are one."""
    if one == other:
        return []
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [name]
    return [
        found
        for key in sorted({*one, *other})
        for found in _unequal(f"{name}.{key}" if name else key, one.get(key), other.get(key))
    ]


def _check_inputs(url: str, shards: Sequence[ScoredShard]) -> None:
    """Raises MixedResultsError where two shards hold the same samples, be it some of them."""
    by_input: dict[str, list[ScoredShard]] = defaultdict(list)
    for one in shards:
        by_input[one.stats["input"]["url"]].append(one)
    twice: dict[str, list[str]] = {}
    for source, parts in by_input.items():
        parts.sort(key=lambda one: (one.shard.start, one.name))
        for before, after in itertools.pairwise(parts):
            if before.shard.stop is None or after.shard.start < before.shard.stop:
                twice.setdefault(source, [before.name, after.name])
    if twice:
        source, names = next(iter(twice.items()))
        raise MixedResultsError(
            f"{url} holds {len(twice)} input(s) twice, such as {source} as {' and '.join(names)}: "
            "move the shards of one of the runs to a folder of their own; if the input has "
            f"changed since, remove the {STATS} files of its older shards"
        )
