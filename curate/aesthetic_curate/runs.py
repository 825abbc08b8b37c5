"""A run: which shards are left to do, worker processes that do them, and how far they are."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from aesthetic_curate.config import Job
from aesthetic_curate.errors import StoppedError
from aesthetic_curate.scoring import Scorer, Watch, score_shard, stats_name
from aesthetic_curate.shards import Shard
from aesthetic_curate.storage import Folder, identity

POLL_S = 0.2  # between two looks at the workers' counters
STOP_GRACE_S = 20.0  # for workers to end what they do, after the first Ctrl-C


@dataclass(frozen=True)
class Plan:
    """Shards to do, those that are done, and how many of the former were done otherwise before."""

    todo: Sequence[Shard]
    done: Sequence[Mapping[str, Any]]
    other_settings: int = 0
    other_input: int = 0


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
    """A moment of a run. Samples and failures count what this run has scored so far."""

    shards_done: int
    samples: int
    failed: int


def plan(shards: Sequence[Shard], job: Job) -> Plan:
    """Which shards are left: without stats, or with those of other settings or another input."""
    folder = Folder(job.out)
    todo: list[Shard] = []
    done: list[Mapping[str, Any]] = []
    other: Counter[str] = Counter()
    for shard in shards:
        stats = read_stats(folder, shard.name)
        if stats is None:
            todo.append(shard)
        elif stats.get("fingerprint") != job.fingerprint:
            other["settings"] += 1
            todo.append(shard)
        elif stats.get("input") != identity(shard.url):
            other["input"] += 1
            todo.append(shard)
        else:
            done.append(stats)
    return Plan(todo, done, other["settings"], other["input"])


def read_stats(folder: Folder, shard: str) -> dict[str, Any] | None:
    """The stats of a shard that is done, None for one that is not."""
    try:
        found = json.loads(folder.read_bytes(stats_name(shard)))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def run(
    todo: Sequence[Shard],
    job: Job,
    workers: int,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Score shards in worker processes; the stats of each as it is done.

    The first shard that fails stops the rest: what is done stays done. Raises its error, and
    StoppedError for a worker that died.
    """
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    workers = max(1, min(workers, len(todo)))
    counters = context.RawArray("q", 2 * workers)  # without a lock: a killed worker would keep it
    places, stop = context.Value("i", 0), context.Event()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (job, counters, places, stop))
    finished = 0

    def tell() -> None:
        if progress is not None:
            progress(Progress(finished, sum(counters[0::2]), sum(counters[1::2])))

    with _stopping(pool, stop), _terminations_as_interrupts():
        waiting: set[Future[dict[str, Any]]] = {pool.submit(_score, shard) for shard in todo}
        while waiting:
            ended, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
            for future in ended:
                stats = _result(future)
                finished += 1
                yield stats
            tell()


def open_scorer(job: Job) -> Scorer:
    """The servers of the job, or the heads at hand where it names none."""
    from aesthetic_curate.local_heads import LocalHeads
    from aesthetic_curate.servers import Servers

    return Servers(job) if job.urls else LocalHeads.read(job.heads_file)


def _result(future: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return future.result()
    except BrokenProcessPool:
        raise StoppedError(
            "a worker process was killed (out of memory?); what is done is kept: run the same "
            "command again to go on, with fewer --workers"
        ) from None


@contextlib.contextmanager
def _stopping(pool: ProcessPoolExecutor, stop: Any) -> Iterator[None]:
    """Ends the workers when the run ends early: asked first, killed when asked again."""
    try:
        yield
    except BaseException:
        stop.set()
        processes = list((pool._processes or {}).values())  # it does not say otherwise
        pool.shutdown(wait=False, cancel_futures=True)
        try:
            for process in processes:
                process.join(STOP_GRACE_S)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
        raise
    pool.shutdown()


@contextlib.contextmanager
def _terminations_as_interrupts() -> Iterator[None]:
    """SIGTERM, as batch systems send it before the end, stops a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- in a worker process -----------------------------------------------------------------------


class _Worker(Watch):
    """One process's scorer and counters."""

    def __init__(self, job: Job, counters: Any, place: int, stop: Any) -> None:
        self.job = job
        self.scorer = open_scorer(job)
        self._counters, self._place, self._stop = counters, place, stop

    def scored(self, samples: int, failed: int) -> None:
        self._counters[2 * self._place] += samples
        self._counters[2 * self._place + 1] += failed
        if self._stop.is_set():
            raise StoppedError("the run was stopped")


_worker: _Worker | None = None


def _start_worker(job: Job, counters: Any, places: Any, stop: Any) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent stops
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with places.get_lock():
        place, places.value = places.value, places.value + 1
    _worker = _Worker(job, counters, place, stop)
    threading.Thread(target=_close_at, args=(stop, _worker.scorer), daemon=True).start()


def _score(shard: Shard) -> dict[str, Any]:
    assert _worker is not None
    return score_shard(shard, _worker.job, _worker.scorer, _worker)


def _end_with_parent() -> None:
    """A parent that was killed leaves no worker behind, which would write beside the next run."""
    process = multiprocessing.parent_process()
    if process is not None:
        multiprocessing.connection.wait([process.sentinel])
        os._exit(1)


def _close_at(stop: Any, scorer: Scorer) -> None:
    stop.wait()
    scorer.close()
