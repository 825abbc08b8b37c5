"""One shard of a filtered data set: its tar, its parquet, and its stats, which say that it is done.

Keys are made as img2dataset makes them, and as `to_webdataset` of NeMo Curator 0.7 did: the
shard's number, then the sample's number within it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any, BinaryIO

import pyarrow as pa

from aesthetic_curate.columns import KEY, renamed_metadata
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.filter_jobs import FORMAT, FilterJob, OutputShard, Piece
from aesthetic_curate.opening import open_source
from aesthetic_curate.rekeying import (
    JSON,
    Entry,
    OtherKeyError,
    end_of_tar,
    new_json,
    read_entries,
    rekeyed_json,
    tar_entries,
)
from aesthetic_curate.results import Results, ScoredShard
from aesthetic_curate.rows import ROW_GROUP_ROWS, RowWriter
from aesthetic_curate.samples import Source
from aesthetic_curate.schemas import conform
from aesthetic_curate.selection import Rows
from aesthetic_curate.shard_files import PARQUET, STATS, TAR
from aesthetic_curate.stats import ScoreStats
from aesthetic_curate.storage import Folder, identity
from aesthetic_curate.tar_entries import tar_key


class ShardWriter:
    """Writes output shards one after another, and keeps the last source open for the next.

    `wrote` is told how many samples were added, so often that it can raise to stop.
    """

    def __init__(self, job: FilterJob, wrote: Callable[[int], None] = lambda samples: None) -> None:
        self._job = job
        self._wrote = wrote
        self._results = Results(Folder(job.scored), ())
        self._folder = Folder(job.out)
        self._stack = ExitStack()
        self._opened: tuple[str, Source] | None = None

    def write(self, output: OutputShard) -> dict[str, Any]:
        """Write its files, the stats last; the stats. Raises UnreadableError, OutputError."""
        job = self._job
        notes: Counter[str] = Counter()
        scores = {name: ScoreStats() for name in job.outputs}
        for suffix in job.suffixes:
            self._folder.sweep(output.name + suffix)
        with ExitStack() as files:
            parquet = files.enter_context(self._folder.writing(output.name + PARQUET))
            empty = job.schema.empty_table()
            rows = files.enter_context(RowWriter(parquet, self._table(empty, []).schema))
            tar: BinaryIO | None = None
            if not job.settings.metadata_only:
                path = files.enter_context(self._folder.writing(output.name + TAR))
                tar = files.enter_context(path.open("wb"))
            seen: set[str] = set()
            keys = iter(job.new_keys(output))
            for piece, part in _parts(output):
                table = conform(self._results.rows(piece.scored, part), job.schema)
                new = [next(keys) for _ in range(len(part))]
                if tar is not None:
                    self._add_samples(tar, piece.scored, part, table, new, notes)
                if job.settings.keep_keys:
                    old = table.column(KEY).to_pylist()
                    notes["duplicate_keys"] += len(old) - len(set(old) - seen)
                    seen.update(old)
                rows.write(self._table(table, new), None)
                for name, stats in scores.items():
                    stats.add(table.column(name).to_numpy())
                if tar is None:
                    self._wrote(len(part))
            if tar is not None:
                tar.write(end_of_tar(tar.tell()))
        found = self._stats(output, notes, scores)
        with self._folder.writing(output.name + STATS) as path:
            path.write_text(json.dumps(found, indent=1), encoding="utf-8")
        return found

    def close(self) -> None:
        self._opened = None
        self._stack.close()

    def _table(self, table: pa.Table, keys: Sequence[str]) -> pa.Table:
        """The rows under their new keys, the old ones beside them."""
        if self._job.settings.keep_keys:
            return table
        return with_new_keys(table, keys, self._job.settings.old_key_column)

    def _add_samples(
        self,
        tar: BinaryIO,
        scored: ScoredShard,
        rows: Rows,
        table: pa.Table,
        keys: Sequence[str],
        notes: Counter[str],
    ) -> None:
        source = self._source(scored)
        outputs = table.select(self._job.outputs).to_pylist()
        olds = table.column(KEY).to_pylist()
        named = str if scored.shard.kind == "tar" else tar_key
        for row, old, new, scores in zip(rows.tolist(), olds, keys, outputs, strict=True):
            raw = BytesIO()
            with _advising(f"sample {old!r}: "):
                source.append_to(row, raw)
            try:
                entries = read_entries(raw.getvalue(), named(old))
            except OtherKeyError as error:
                raise _changed(scored, f"sample {row} was {old!r}, and now {error}") from None
            if self._job.settings.keep_keys:
                tar.write(raw.getbuffer())
            else:
                for part in tar_entries(
                    new, self._rekeyed(entries, scored, old, new, scores, notes)
                ):
                    tar.write(part)
            notes["files"] += len(entries)
            self._wrote(1)

    def _rekeyed(
        self,
        entries: Sequence[Entry],
        scored: ScoredShard,
        old: str,
        new: str,
        scores: Mapping[str, Any],
        notes: Counter[str],
    ) -> Iterator[Entry]:
        """The same files, with the new key in the JSON."""
        settings = self._job.settings
        has_json = False
        for entry in entries:
            if entry.extension.lower() != JSON:
                yield entry
                continue
            has_json = True
            id_field = scored.options.key_column or KEY
            data = rekeyed_json(entry.data, new, old, settings.old_key_column, id_field)
            notes["broken_json"] += data == entry.data
            yield Entry(entry.extension, data, entry.mtime)
        if settings.add_json and not has_json:
            notes["added_json"] += 1
            data = new_json(new, old, settings.old_key_column, scores)
            yield Entry(JSON, data, entries[0].mtime if entries else 0)

    def _source(self, scored: ScoredShard) -> Source:
        """The shard's source, opened as for scoring. Raises UnreadableError if it has changed."""
        if self._opened is not None and self._opened[0] == scored.name:
            return self._opened[1]
        self.close()
        with _advising():
            now = identity(scored.shard.url)
        if now != scored.stats["input"]:
            raise _changed(scored, _difference(scored.stats["input"], now))
        # The metadata is in the scored parquet; the one beside the tar may have changed since.
        shard = replace(scored.shard, metadata_url=None)
        with _advising():
            source: Source = self._stack.enter_context(open_source(shard, scored.options))
        if len(source) != scored.samples:
            raise _changed(scored, f"it had {scored.samples} samples, and has {len(source)}")
        self._opened = (scored.name, source)
        return source

    def _stats(
        self, output: OutputShard, notes: Counter[str], scores: Mapping[str, ScoreStats]
    ) -> dict[str, Any]:
        job = self._job
        return {
            "format": FORMAT,
            "filtered": output.name,
            "samples": output.samples,
            "notes": {name: count for name, count in sorted(notes.items()) if count},
            "sources": [
                {"shard": piece.scored.name, "url": piece.scored.shard.url, "rows": len(piece.rows)}
                for piece in output.pieces
            ],
            "scores": {name: stats.to_json() for name, stats in scores.items()},
            "fingerprint": job.fingerprint,
            "scored_fingerprint": job.scored_fingerprint,
            "provenance": job.provenance,
            "tar": not job.settings.metadata_only,
        }


def with_new_keys(table: pa.Table, keys: Sequence[str], old_name: str) -> pa.Table:
    """The table under new keys, with the old ones as a column behind them.

    A column that has this name already is kept as `source_` and the name.
    """
    old = table.column(KEY)
    renamed = renamed_metadata(table, [old_name])
    renamed = renamed.set_column(0, table.schema.field(KEY), pa.array(keys, pa.string()))
    return renamed.add_column(1, pa.field(old_name, pa.string(), nullable=False), old)


def _parts(output: OutputShard) -> Iterator[tuple[Piece, Rows]]:
    """Its rows in parts of a row group at most, so that memory does not grow with the shard."""
    for piece in output.pieces:
        for start in range(0, len(piece.rows), ROW_GROUP_ROWS):
            yield piece, piece.rows[start : start + ROW_GROUP_ROWS]


_ADVICE = (
    "run the score command again, which redoes what has changed, and then filter; or pass "
    "--metadata-only, which needs no source"
)


@contextmanager
def _advising(subject: str = "") -> Iterator[None]:
    """Says how to go on where a source cannot be read any more."""
    try:
        yield
    except UnreadableError as error:
        raise UnreadableError(f"{subject}{error}; {_ADVICE}") from error


def _changed(scored: ScoredShard, how: str) -> UnreadableError:
    return UnreadableError(f"{scored.shard.url} has changed since it was scored: {how}; {_ADVICE}")


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    for name in ("bytes", "modified", "url"):
        if before.get(name) != now.get(name):
            return f"{name} {before.get(name)}, now {now.get(name)}"
    return "its identity"
