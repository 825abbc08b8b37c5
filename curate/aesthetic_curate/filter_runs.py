"""Writes the output shards of a filter, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from aesthetic_curate.filter_jobs import FilterJob, OutputShard
from aesthetic_curate.filtered_shards import ShardWriter
from aesthetic_curate.processes import Seat, map_in_workers, terminations_as_interrupts

Progress = Callable[[int, int], None]  # shards and samples written so far


def run(
    job: FilterJob,
    shards: Sequence[OutputShard],
    workers: int = 1,
    progress: Progress = lambda shards, samples: None,
) -> Iterator[dict[str, Any]]:
    """Write these shards; the stats of each. One worker works in this process.

    Raises UnreadableError, OutputError, and StoppedError for a worker that died.
    """
    blocks = split_blocks(shards, workers)
    with terminations_as_interrupts():
        if workers <= 1 or len(blocks) <= 1:
            yield from _run_here(job, blocks, progress)
            return
        workers = min(workers, len(blocks))
        for stats in map_in_workers(
            _write_block, blocks, workers, _start, (job,), lambda sums: progress(*sums), 2
        ):
            yield from stats


def split_blocks(shards: Sequence[OutputShard], workers: int) -> list[list[OutputShard]]:
    """Shards that one worker writes in a row: those that begin in the same source.

    So each source is opened twice at most, by its own block and at the end of the one before,
    unless there are fewer sources than workers.
    """
    longest = max(1, -(-len(shards) // max(1, workers)))
    blocks: list[list[OutputShard]] = []
    for shard in shards:
        same = blocks and _source(blocks[-1][0]) == _source(shard)
        if same and len(blocks[-1]) < longest:
            blocks[-1].append(shard)
        else:
            blocks.append([shard])
    return blocks


def _source(shard: OutputShard) -> str:
    return shard.pieces[0].scored.name


def _run_here(
    job: FilterJob, blocks: Sequence[Sequence[OutputShard]], progress: Progress
) -> Iterator[dict[str, Any]]:
    done = samples = 0

    def wrote(count: int) -> None:
        nonlocal samples
        samples += count
        progress(done, samples)

    writer = ShardWriter(job, wrote)
    try:
        for shard in (shard for block in blocks for shard in block):
            stats = writer.write(shard)
            done += 1
            yield stats
    finally:
        writer.close()


# --- in a worker process -----------------------------------------------------------------------

_writer: ShardWriter | None = None
_seat: Seat | None = None


def _start(seat: Seat, job: FilterJob) -> None:
    global _writer, _seat
    _seat = seat
    _writer = ShardWriter(job, lambda samples: seat.count(0, samples))


def _write_block(shards: Sequence[OutputShard]) -> list[dict[str, Any]]:
    assert _writer is not None and _seat is not None
    found = []
    for shard in shards:
        found.append(_writer.write(shard))
        _seat.count(1, 0)
    return found
