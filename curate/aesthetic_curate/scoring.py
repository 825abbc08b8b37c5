"""The shard function: a shard in, its scored files out, its stats file last."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aesthetic_client.contract import EMBEDDING_DIM
from aesthetic_curate import columns
from aesthetic_curate.config import FORMAT, Job, ScoreConfig
from aesthetic_curate.embeddings import open_embeddings, score_embedding_chunk
from aesthetic_curate.errors import StoppedError, UnreadableError
from aesthetic_curate.likeness import scoring_likes, with_origins
from aesthetic_curate.opening import open_source
from aesthetic_curate.outcomes import Outcome
from aesthetic_curate.rows import RowWriter
from aesthetic_curate.samples import Chunk, Sample, Source
from aesthetic_curate.scorers import Scorer
from aesthetic_curate.shard_files import PARQUET, STATS, TAR
from aesthetic_curate.shards import Shard
from aesthetic_curate.stats import ScoreStats
from aesthetic_curate.storage import Folder, identity

REFUSALS = 50  # images refused one after another, for no fault of theirs: the server is broken
# A tar ends with two empty blocks and fills its last record.
TAR_BLOCK, TAR_RECORD = 512, 10_240


class Watch:
    """Told of samples as they are scored; may end the shard by raising StoppedError."""

    def begun(self, samples: int) -> None:
        """A shard of so many samples was opened."""

    def scored(self, samples: int, failed: int) -> None:
        """So many more samples have a row; so many of them no score."""


def score_shard(
    shard: Shard, job: Job, scorer: Scorer, watch: Watch | None = None
) -> dict[str, Any]:
    """Score one shard and write `NAME.parquet`, perhaps `NAME.tar`, and then `NAME_stats.json`.

    Each is written under a temporary name and renamed when whole; an earlier stats file goes first,
    so that nothing half new counts as done. Returns the stats. Raises UnreadableError for an input
    that cannot be read at all, OutputError, and StoppedError when no server answers.
    """
    started_s = time.monotonic()
    folder = Folder(job.out)
    names = [shard.name + suffix for suffix in (PARQUET, TAR, STATS)]
    before = identity(shard.url)  # an input that is away for now leaves its result done
    folder.remove(names[2])
    tally, watch = Tally(job.config), watch or Watch()
    with ExitStack() as files:
        parquet = files.enter_context(folder.writing(names[0]))
        schema = columns.scored_schema(job.config.outputs, job.config.embedding)
        writer = files.enter_context(RowWriter(parquet, schema))
        if shard.kind == "embeddings":
            notes = _score_embeddings(shard, job, scorer, writer, tally, watch)
        else:
            tar = None
            if job.config.tar_min is not None:
                path = files.enter_context(folder.writing(names[1]))
                tar = files.enter_context(path.open("wb"))
            notes = _score_images(shard, job, scorer, writer, tally, watch, tar)
    if job.config.tar_min is None:
        folder.remove(names[1])  # of a run with other settings
    stats = {
        "format": FORMAT,
        "shard": asdict(shard),
        "input": before,
        **tally.to_json(),
        "notes": notes,
        "seconds": round(time.monotonic() - started_s, 3),
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "fingerprint": job.fingerprint,
        "config": job.config.to_json(),
        "options": asdict(job.options),
        "provenance": with_origins(job.provenance, job.config.likes),
        "tar": job.config.tar_min is not None and shard.kind != "embeddings",
    }
    with folder.writing(names[2]) as path:
        path.write_text(json.dumps(stats, indent=1) + "\n", "utf-8")
    return stats


@dataclass(frozen=True)
class Unread:
    """A shard whose input cannot be read at all, and why."""

    shard: str
    reason: str


def try_shard(
    shard: Shard, job: Job, scorer: Scorer, watch: Watch | None = None
) -> dict[str, Any] | Unread:
    """`score_shard`, where an input that cannot be read is told of: it stops no other shard."""
    try:
        return score_shard(shard, job, scorer, watch)
    except UnreadableError as error:
        return Unread(shard.name, str(error))


class Tally:
    """Counts and statistics of a shard's rows."""

    def __init__(self, config: ScoreConfig) -> None:
        self._config = config
        self._statuses: Counter[str] = Counter()
        self._scores = {head.output: (head.name, ScoreStats()) for head in config.columns}
        self.kept: int | None = None  # samples in the filtered tar, where there is one

    def add(self, statuses: Counter[str], scores: Mapping[str, NDArray[np.float32]]) -> None:
        """Take in rows: how many of each status, and their scores by output, NaN for none."""
        self._statuses.update(statuses)
        for output, values in scores.items():
            self._scores[output][1].add(values)

    def to_json(self) -> dict[str, Any]:
        return {
            "samples": self._statuses.total(),
            "statuses": dict(sorted(self._statuses.items())),
            "kept": self.kept,
            "scores": {
                output: {"head": name, **stats.to_json()}
                for output, (name, stats) in self._scores.items()
            },
        }


def _score_images(
    shard: Shard,
    job: Job,
    scorer: Scorer,
    writer: RowWriter,
    tally: Tally,
    watch: Watch,
    tar: BinaryIO | None,
) -> dict[str, int]:
    with open_source(shard, job.options) as source:
        watch.begun(len(source))
        tally.kept = None if tar is None else 0
        row = 0
        for outcomes, metadata in _scored_chunks(source, scorer, watch):
            table = _table(outcomes, job.config)
            writer.write(table, metadata)
            scores = {
                output: table.column(output).to_numpy(zero_copy_only=False)
                for output in job.config.outputs
            }
            if tar is not None:
                kept = np.flatnonzero(scores[job.config.outputs[0]] >= job.config.tar_min)
                for at in kept:
                    source.append_to(row + int(at), tar)
                tally.kept = (tally.kept or 0) + len(kept)
            tally.add(Counter(outcome.status for outcome in outcomes), scores)
            row += len(outcomes)
        if tar is not None:
            _end_tar(tar)
        return dict(source.notes)


def _scored_chunks(
    source: Source, scorer: Scorer, watch: Watch
) -> Iterator[tuple[list[Outcome], pa.Table | None]]:
    """The outcomes of each chunk with its metadata. Raises StoppedError for a broken server."""
    chunks: deque[Chunk] = deque()

    def samples() -> Iterator[Sample]:
        for chunk in source.chunks():
            if chunk.samples:
                chunks.append(chunk)
                yield from chunk.samples

    outcomes: list[Outcome] = []
    with contextlib.closing(scorer.score(samples())) as scored:  # type: ignore[type-var]
        for outcome in scored:
            outcomes.append(outcome)
            watch.scored(1, int(outcome.status != "ok"))
            if outcome.status == "refused":
                scorer.refusals += 1
            elif outcome.status in ("ok", "bad_image"):  # others never reached a server
                scorer.refusals = 0
            if scorer.refusals >= REFUSALS:
                raise StoppedError(
                    f"the server refused {REFUSALS} images one after another, the last with: "
                    f"{outcome.error}; mend it, and run the same command again to go on"
                )
            if len(outcomes) == len(chunks[0].samples):
                yield outcomes, chunks.popleft().metadata
                outcomes = []


def _table(outcomes: Sequence[Outcome], config: ScoreConfig) -> pa.Table:
    """Our columns of these outcomes."""
    arrays: dict[str, Any] = {
        columns.KEY: [outcome.sample.key for outcome in outcomes],
        columns.STATUS: [outcome.status for outcome in outcomes],
        columns.ERROR: [outcome.error or None for outcome in outcomes],
        columns.IMAGE: [outcome.sample.name or None for outcome in outcomes],
        columns.WIDTH: [outcome.width for outcome in outcomes],
        columns.HEIGHT: [outcome.height for outcome in outcomes],
    }
    for head in config.columns:
        arrays[head.output] = [outcome.scores.get(head.name) for outcome in outcomes]
    if config.embedding:
        missing = np.full(EMBEDDING_DIM, np.nan, np.float32)
        vectors = [
            missing if outcome.embedding is None else outcome.embedding for outcome in outcomes
        ]
        arrays[columns.EMBEDDING] = columns.embedding_array(np.stack(vectors), config.embedding)
    schema = columns.scored_schema(config.outputs, config.embedding)
    return pa.table([pa.array(arrays[field.name], field.type) for field in schema], schema=schema)


def _score_embeddings(
    shard: Shard, job: Job, scorer: Scorer, writer: RowWriter, tally: Tally, watch: Watch
) -> dict[str, int]:
    config = job.config
    schema = columns.scored_schema(config.outputs, config.embedding)
    with open_embeddings(shard, job.options) as source:
        watch.begun(len(source))
        for chunk in source.chunks():
            scored = score_embedding_chunk(
                chunk,
                scoring_likes(scorer.score_embeddings, config.likes),
                config.columns,
                normalize=config.normalize,
                keep_units=config.embedding is not None,
                blocks=scorer.blocks,
            )
            arrays = {columns.KEY: pa.array(chunk.keys, pa.string()), **scored.columns()}
            if config.embedding and scored.units is not None:
                arrays[columns.EMBEDDING] = columns.embedding_array(scored.units, config.embedding)
            rows = len(chunk.keys)
            table = [
                arrays.get(field.name, pa.nulls(rows, field.type)).cast(field.type)
                for field in schema
            ]
            writer.write(pa.table(table, schema=schema), chunk.metadata)
            tally.add(scored.statuses, scored.scores)
            watch.scored(rows, len(scored.problems))
        return dict(source.notes)


def _end_tar(tar: BinaryIO) -> None:
    tar.write(bytes(2 * TAR_BLOCK))
    tar.write(bytes(-tar.tell() % TAR_RECORD))
