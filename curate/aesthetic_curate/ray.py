"""Ray, for who outgrows one machine: the shard function as Ray tasks, and rows by Ray Data.

Shards, on the cluster of RAY_ADDRESS, or on this machine:

    from aesthetic_curate.ray import score_shards

    todo = runs.plan(shards, job).todo
    for stats in score_shards(todo, job, in_flight_per_server=256):
        print(stats["shard"]["name"], stats["samples"])

The job's output, its input and its servers must be reachable from every node, and the nodes need
aesthetic-triton[ray]. Rows: see AestheticScorer. Needs the `ray` extra.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aesthetic_client.errors import AestheticError, InputError
from aesthetic_curate.column_scorer import AestheticScorer
from aesthetic_curate.config import Job
from aesthetic_curate.errors import StoppedError
from aesthetic_curate.scorers import Scorer, open_scorer
from aesthetic_curate.scoring import Unread, Watch, try_shard
from aesthetic_curate.shards import Shard
from aesthetic_curate.storage import Folder

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise ImportError(
        f"{error}; aesthetic_curate.ray needs Ray: pip install 'aesthetic-triton[ray]'"
    ) from error

__all__ = ["AestheticScorer", "score_shards"]

DEFAULT_IN_FLIGHT_PER_SERVER = 64  # images; enough for one GPU, and a CPU answers all in a minute
DEATHS = 3  # of the worker process or the node that does a shard, before the run gives up
POLL_S = 1.0  # between two questions of a task whether it is to stop
STOP_GRACE_S = 20.0  # for tasks to end what they do, before their processes are killed


def score_shards(
    todo: Sequence[Shard],
    job: Job,
    *,
    concurrency: int | None = None,
    in_flight_per_server: int = DEFAULT_IN_FLIGHT_PER_SERVER,
    task_options: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any] | Unread]:
    """Score shards as Ray tasks; the stats of each as it is done.

    The same function, files and errors as `runs.run`. A task whose process or node dies is done
    anew, elsewhere; since a shard's files appear whole or not at all, nothing is lost or doubled.
    A shard whose input cannot be read is told of. Any other failure stops the rest: what is done
    stays done.

    Args:
        todo: shards to do; `runs.plan` leaves out those that are done.
        job: what to do. Its `in_flight` is replaced.
        concurrency: tasks at once, by default one a CPU of the cluster.
        in_flight_per_server: images on their way to each server from all tasks together.
        task_options: further options of the tasks (`num_cpus`, `resources`, `runtime_env`, ...).

    Raises the error of the shard that failed, and StoppedError where workers keep dying.
    """
    if in_flight_per_server < 1 or (concurrency is not None and concurrency < 1):
        raise InputError("concurrency and in_flight_per_server must be 1 or more")
    return _scored(list(todo), job, concurrency, in_flight_per_server, dict(task_options or {}))


def budget(job: Job, concurrency: int, in_flight_per_server: int) -> tuple[int, Job]:
    """Tasks at once, and the job of each, so that together they keep within the servers' budget."""
    tasks = min(concurrency, in_flight_per_server)
    return tasks, replace(job, in_flight=in_flight_per_server // tasks)


def _scored(
    todo: Sequence[Shard],
    job: Job,
    concurrency: int | None,
    in_flight_per_server: int,
    options: Mapping[str, Any],
) -> Iterator[dict[str, Any] | Unread]:
    if not todo:
        return
    with _connected():
        tasks, job = budget(job, min(concurrency or _cpus(), len(todo)), in_flight_per_server)
        task = _score.options(**{"max_retries": DEATHS, "scheduling_strategy": "SPREAD", **options})
        shared = ray.put(job)
        stop = _Stop.remote()  # type: ignore[attr-defined]
        left, running = deque(todo), dict[Any, Shard]()
        try:
            while left or running:
                while left and len(running) < tasks:
                    shard = left.popleft()
                    running[task.remote(shard, shared, stop)] = shard
                ended, _ = ray.wait(list(running), num_returns=1)
                for reference in ended:
                    yield _result(reference, running.pop(reference))
        finally:
            _end(list(running), stop)
            Folder(job.out).sweep_all()  # a shard may be done anew before its old worker is gone


def _end(running: Sequence[Any], stop: Any) -> None:
    """End tasks that are under way: asked first, then killed."""
    if not running:
        return
    # Not by ray.cancel: its KeyboardInterrupt may come where a lock is held, which stays held.
    stop.ask.remote()
    _, late = ray.wait(list(running), num_returns=len(running), timeout=STOP_GRACE_S)
    for reference in late:
        ray.cancel(reference, force=True)


def _result(reference: Any, shard: Shard) -> dict[str, Any] | Unread:
    try:
        result = ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise StoppedError(
            f"shard {shard.name}: the Ray workers that did it died ({type(error).__name__}); what "
            "is done is kept: run the same again to go on, with more memory a worker "
            '(task_options={"memory": ...}) or a smaller concurrency'
        ) from error
    if isinstance(result, AestheticError):
        raise result
    return result  # type: ignore[no-any-return]


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """The caller's Ray, else RAY_ADDRESS's, else one on this machine for as long as it takes."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its maker
    ray.init(include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def _cpus() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


@ray.remote(num_cpus=0)
class _Stop:
    """Knows whether the run is to stop; its tasks ask once a second."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        self._asked = True

    def asked(self) -> bool:
        return self._asked


# --- in a worker process -----------------------------------------------------------------------


@ray.remote  # type: ignore[untyped-decorator]
def _score(shard: Shard, job: Job, stop: Any) -> dict[str, Any] | Unread | AestheticError:
    """The stats, or the error that ended the shard: Ray would wrap one that is raised."""
    try:
        with contextlib.closing(open_scorer(job)) as scorer, _Attention(stop, scorer) as watch:
            return try_shard(shard, job, scorer, watch)
    except AestheticError as error:
        return error


class _Attention(Watch):
    """Ends a shard when the run is to stop, also while it waits for an answer."""

    def __init__(self, stop: Any, scorer: Scorer) -> None:
        self._stop, self._scorer = stop, scorer
        self._stopped, self._over = threading.Event(), threading.Event()

    def __enter__(self) -> _Attention:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def scored(self, samples: int, failed: int) -> None:
        if self._stopped.is_set():
            raise StoppedError("the run was stopped")

    def _listen(self) -> None:
        with contextlib.suppress(RayError):  # gone with its node: nobody is to be asked any more
            while not self._over.wait(POLL_S):
                if ray.get(self._stop.asked.remote()):
                    self._stopped.set()
                    self._scorer.close()  # what waits for an answer would wait on
                    return
