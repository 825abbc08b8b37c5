"""A run: which shards are left to do, worker processes that do them, and how far they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from aesthetic_curate.config import Job, tower_precision
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.manifest import read_manifest, write_manifest
from aesthetic_curate.places import check_shards
from aesthetic_curate.processes import Seat, map_in_workers, terminations_as_interrupts
from aesthetic_curate.scorers import open_scorer
from aesthetic_curate.scoring import Unread, Watch, try_shard
from aesthetic_curate.shard_files import PARQUET, STATS, TAR, read_stats
from aesthetic_curate.shards import Shard
from aesthetic_curate.storage import READERS, Folder, identity


@dataclass(frozen=True)
class Plan:
    """Shards to do, those that are done, and how many of the former were done otherwise before.

    `other_precisions` are those of the towers of `other_settings` shards of images that the job's
    is not in; stored embeddings need no tower.
    """

    todo: Sequence[Shard]
    done: Sequence[Mapping[str, Any]]
    other_settings: int = 0
    other_input: int = 0
    other_precisions: Sequence[str] = ()


@dataclass
class Summary:
    """What a run's shards hold, those that were done before included."""

    shards: int = 0
    samples: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    kept: int | None = None

    def add(self, stats: Mapping[str, Any]) -> None:
        self.shards += 1
        self.samples += stats["samples"]
        self.statuses.update(stats["statuses"])
        if stats["kept"] is not None:
            self.kept = (self.kept or 0) + stats["kept"]


@dataclass(frozen=True)
class Progress:
    """A moment of a run: what it has done itself, and what it has opened so far.

    `begun` shards hold `expected` samples together, which says how many all of them may hold.
    """

    shards_done: int
    samples: int = 0
    failed: int = 0
    begun: int = 0
    expected: int = 0

    def share(self, shards: int) -> float:
        """How much of `shards` is done, 0 to 1, if those not opened yet are like the others."""
        if not self.expected:
            return self.shards_done / max(1, shards)
        return min(1.0, self.samples / (self.expected / self.begun * shards))


def plan(shards: Sequence[Shard], job: Job) -> Plan:
    """Which shards are left: without stats, or with those of other settings or another input.

    Raises InputError where the output folder holds an input: it would be written over.
    """
    check_shards(shards, job.out)
    folder = Folder(job.out)
    folder.sweep_all()
    fingerprint = job.fingerprint

    def look(shard: Shard) -> tuple[str, dict[str, Any] | None]:
        stats = read_stats(folder, shard.name)
        if stats is None:
            return "todo", None
        if stats.get("fingerprint") != fingerprint:
            return "other settings", stats
        try:
            same = stats.get("shard") == asdict(shard) and stats.get("input") == identity(shard.url)
        except UnreadableError:  # whether it still is: the shard function will say
            same = False
        return ("done" if same else "other input"), stats

    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(look, shards))
    counts = Counter(verdict for verdict, _ in found)
    precisions = {
        tower_precision(stats.get("provenance", {}))
        for shard, (verdict, stats) in zip(shards, found, strict=True)
        if stats is not None and verdict == "other settings" and shard.kind != "embeddings"
    }
    return Plan(
        [shard for shard, (verdict, _) in zip(shards, found, strict=True) if verdict != "done"],
        [stats for verdict, stats in found if stats is not None and verdict == "done"],
        counts["other settings"],
        counts["other input"],
        sorted(precisions - {tower_precision(job.provenance), ""}),
    )


def begin(shards: Sequence[Shard], out: str) -> None:
    """Name the run's shards in its folder, and remove what an earlier cut of the inputs left.

    A table that has grown past the rows of a shard has results under its old name and its new ones:
    its samples would count twice. Raises OutputError.
    """
    folder = Folder(out)
    names, urls = {shard.name for shard in shards}, {shard.url for shard in shards}
    for name in read_manifest(folder):
        if name in names:
            continue
        stats = read_stats(folder, name)
        if stats is not None and stats["shard"]["url"] in urls:
            for suffix in (STATS, PARQUET, TAR):
                folder.remove(name + suffix)
    write_manifest(folder, shards)


def run(
    todo: Sequence[Shard],
    job: Job,
    workers: int,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[dict[str, Any] | Unread]:
    """Score shards in worker processes; the stats of each as it is done.

    A shard whose input cannot be read is told of. Any other failure stops the rest: what is done
    stays done. Raises its error, and StoppedError for a worker that died.
    """
    finished = 0

    def tell(counts: Sequence[int]) -> None:
        if progress is not None:
            progress(Progress(finished, *counts))

    workers = max(1, min(workers, len(todo)))
    try:
        with terminations_as_interrupts():
            results = map_in_workers(_score, todo, workers, _start_worker, (job,), tell, counters=4)
            for result in results:
                finished += 1
                yield result
    finally:
        # Workers of a run that was killed may have lived until after the sweep at the start.
        Folder(job.out).sweep_all()


# --- in a worker process -----------------------------------------------------------------------


class _Worker(Watch):
    """One process's scorer."""

    def __init__(self, seat: Seat, job: Job) -> None:
        self.job, self.scorer = job, open_scorer(job)
        self._seat = seat
        seat.at_stop(self.scorer.close)  # what waits for an answer would wait on

    def begun(self, samples: int) -> None:
        self._seat.count(0, 0, 1, samples)

    def scored(self, samples: int, failed: int) -> None:
        self._seat.count(samples, failed)


_worker: _Worker | None = None


def _start_worker(seat: Seat, job: Job) -> None:
    global _worker
    _worker = _Worker(seat, job)


def _score(shard: Shard) -> dict[str, Any] | Unread:
    assert _worker is not None
    return try_shard(shard, _worker.job, _worker.scorer, _worker)
