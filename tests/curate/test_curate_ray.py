"""Shards and rows on a real Ray: nothing lost, nothing doubled, servers never asked too much."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import ray.data
from curate_datasets import img2dataset, jpegs, unit_embeddings
from curate_ray import RAY_WARNINGS, local_ray

from aesthetic_client import Client, InputError
from aesthetic_client.contract import DEFAULT_HEAD
from aesthetic_curate import runs
from aesthetic_curate.config import Job, ScoreConfig
from aesthetic_curate.errors import StoppedError
from aesthetic_curate.options import InputOptions
from aesthetic_curate.ray import AestheticScorer, budget, score_shards
from aesthetic_curate.scorers import open_scorer
from aesthetic_curate.scoring import Unread, score_shard
from aesthetic_curate.shards import Shard

pytestmark = [pytest.mark.triton, *(pytest.mark.filterwarnings(text) for text in RAY_WARNINGS)]

CLOSE = {"abs": 5e-4}  # two requests differ by as much when Triton batches them differently
JPEGS = jpegs(24)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # Workers do not see the folder of the tests.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with local_ray():
        yield


@pytest.fixture(scope="module")
def scores(tiny_server: Any) -> list[float]:
    """The client's scores of JPEGS."""
    with Client(tiny_server.grpc_url) as client:
        return [result.score for result in client.score_many(JPEGS)]


# --- rows --------------------------------------------------------------------------------------


class DiesOnce(AestheticScorer):
    """Kills its process at the third batch, unless a file says that one has died already."""

    def __init__(self, marker: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._marker, self._batches = Path(marker), 0

    def __call__(self, batch: Any) -> dict[str, Any]:
        self._batches += 1
        if self._batches == 3 and not self._marker.exists():
            self._marker.touch()
            os._exit(1)
        return super().__call__(batch)


def test_ray_data_scores_rows_although_a_worker_dies(
    cluster: None, tiny_server: Any, scores: list[float], tmp_path: Path
) -> None:
    rows = [{"id": k, "bytes": JPEGS[k % 24] if k % 10 else b"bad"} for k in range(120)]
    marker = tmp_path / "died"
    settings = {"url": tiny_server.grpc_url, "image_column": "bytes", "marker": str(marker)}
    scored = ray.data.from_items(rows, override_num_blocks=12).map_batches(
        DiesOnce, fn_constructor_kwargs=settings, concurrency=2, batch_size=5
    )
    found = sorted(scored.take_all(), key=lambda row: row["id"])
    assert marker.exists()
    assert [row["id"] for row in found] == list(range(120))
    for row, source in zip(found, rows, strict=True):
        assert row["bytes"] == source["bytes"]
        good = row["id"] % 10 != 0
        assert row["status"] == ("ok" if good else "bad_image")
        expected = scores[row["id"] % 24] if good else np.nan
        assert row["aesthetic_score"] == pytest.approx(expected, nan_ok=True, **CLOSE)


def test_ray_data_scores_arrays_and_embeddings(cluster: None, tiny_server: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 40, 60, 3), np.uint8)
    vectors = unit_embeddings(6)
    with Client(tiny_server.grpc_url) as client:
        by_pixels = [result.score for result in client.score_many(list(pixels))]
        by_vector = client.score_embeddings(vectors)
    dataset = ray.data.from_items(
        [{"image": pixels[k], "vector": vectors[k]} for k in range(6)], override_num_blocks=1
    )
    scored = dataset.map_batches(
        AestheticScorer, fn_constructor_kwargs={"url": tiny_server.grpc_url}, concurrency=1
    ).map_batches(
        AestheticScorer,
        fn_constructor_kwargs={"url": tiny_server.grpc_url, "embedding_column": "vector"},
        concurrency=1,
    )
    found = scored.take_all()
    assert [row["source_aesthetic_score"] for row in found] == pytest.approx(by_pixels, **CLOSE)
    assert [row["aesthetic_score"] for row in found] == pytest.approx(list(by_vector), abs=1e-5)


# --- shards ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    """Four tars of 29 samples, one in seventeen bad."""
    tars = img2dataset(tmp_path_factory.mktemp("tars"), shards=4, samples=30, images=JPEGS)
    return [
        Shard(tar.stem, "tar", str(tar), metadata_url=str(tar.with_suffix(".parquet")))
        for tar in tars
    ]


@pytest.fixture
def job(tiny_server: Any, tmp_path: Path) -> Job:
    with Client(tiny_server.grpc_url) as client:
        provenance = client.provenance()
    config = ScoreConfig((DEFAULT_HEAD,), tar_min=-1e9)
    out = tmp_path / "scored"
    return Job(str(out), (tiny_server.grpc_url,), config, InputOptions(), provenance)


def rows_of(out: str) -> tuple[list[dict[str, Any]], list[float]]:
    """All rows, in the order of the shards' names, and apart from them their scores."""
    tables = [pq.read_table(path) for path in sorted(Path(out).glob("*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    scores = [row.pop("aesthetic_score") for row in rows]
    return rows, [np.nan if score is None else score for score in scores]


def done_here(shards: Sequence[Shard], job: Job, out: Path) -> Job:
    """The same job, done by one process, for comparison."""
    job = replace(job, out=str(out))
    for shard in shards:
        with contextlib.closing(open_scorer(job)) as scorer:
            score_shard(shard, job, scorer)
    return job


def assert_as_done_here(shards: Sequence[Shard], job: Job, folder: Path) -> None:
    """Rows, tars and their numbers are those of an undisturbed run, and nothing else is there."""
    here = done_here(shards, job, folder)
    rows, scores = rows_of(job.out)
    expected_rows, expected_scores = rows_of(here.out)
    assert len(rows) == 29 * len(shards) and rows == expected_rows
    assert scores == pytest.approx(expected_scores, nan_ok=True, **CLOSE)
    names = sorted(path.name for path in Path(here.out).iterdir())
    assert sorted(path.name for path in Path(job.out).iterdir()) == names
    for path in Path(here.out).glob("*.tar"):
        assert Path(job.out, path.name).read_bytes() == path.read_bytes()


@contextlib.contextmanager
def killing_writers(out: str, times: int) -> Iterator[list[int]]:
    """Kill so many processes in the midst of a shard: temporary files tell who writes."""
    killed: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        while len(killed) < times and not ended.is_set():
            for path in Path(out).glob(".*.parquet.*.tmp"):
                pid = int(path.name.split("-")[-2])
                if pid not in killed and len(killed) < times:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.002)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def test_shards_whose_workers_are_killed_are_done_anew(
    cluster: None, shards: list[Shard], job: Job, tmp_path: Path
) -> None:
    with killing_writers(job.out, times=2) as killed:
        stats = list(score_shards(shards, job, concurrency=2))
    assert len(killed) == 2
    assert sorted(one["shard"]["name"] for one in stats) == [shard.name for shard in shards]
    assert [one["samples"] for one in stats] == [29] * 4
    assert [one["statuses"] for one in stats] == [{"bad_image": 1, "ok": 28}] * 4
    assert_as_done_here(shards, job, tmp_path / "here")
    assert runs.plan(shards, job).todo == []


def test_a_server_that_stays_away_stops_the_run_and_the_next_goes_on(
    cluster: None, shards: list[Shard], job: Job, tmp_path: Path
) -> None:
    [first] = score_shards(shards[:1], job, concurrency=1)
    away = replace(job, urls=("127.0.0.1:1",), patience_s=0.5)
    todo = runs.plan(shards, away).todo
    assert len(todo) == 3
    with pytest.raises(StoppedError, match=r"no answer for 0.5 s from \S*127.0.0.1:1"):
        list(score_shards(todo, away, in_flight_per_server=2))
    plan = runs.plan(shards, job)
    assert [one["finished"] for one in plan.done] == [first["finished"]]
    assert len(list(score_shards(plan.todo, job))) == 3
    assert_as_done_here(shards, job, tmp_path / "here")


def test_a_shard_that_cannot_be_read_stops_no_other(
    cluster: None, shards: list[Shard], job: Job, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no tar at all" * 100)
    results = list(score_shards([Shard("broken", "tar", str(broken)), *shards[:2]], job))
    [unread] = [result for result in results if isinstance(result, Unread)]
    assert unread.shard == "broken" and "broken.tar" in unread.reason
    assert [one["samples"] for one in results if not isinstance(one, Unread)] == [29] * 2
    assert not list(Path(job.out).glob("broken*"))


def test_a_run_that_is_left_ends_its_tasks_which_clean_up(
    cluster: None, shards: list[Shard], job: Job
) -> None:
    away = replace(job, urls=("127.0.0.1:1",))  # the second waits, for up to ten minutes
    broken = Shard("broken", "tar", "/nonexistent.tar")
    started_s = time.monotonic()
    with contextlib.closing(score_shards([shards[0], broken], away, concurrency=2)) as results:  # type: ignore[type-var]
        assert isinstance(next(results), Unread)
    assert time.monotonic() - started_s < 15  # not killed: asked
    assert list(Path(job.out).iterdir()) == []


def test_workers_that_keep_dying_are_told_of(cluster: None, shards: list[Shard], job: Job) -> None:
    away = replace(job, urls=("127.0.0.1:1",))  # waited for until the worker is killed
    with (
        killing_writers(job.out, times=2),
        pytest.raises(StoppedError, match=f"shard {shards[0].name}: the Ray workers"),
    ):
        list(score_shards(shards[:1], away, task_options={"max_retries": 1}))


@pytest.mark.parametrize(("workers", "allowed", "tasks", "each"), [(4, 64, 4, 16), (8, 3, 3, 1)])
def test_tasks_share_what_the_servers_are_asked(
    job: Job, workers: int, allowed: int, tasks: int, each: int
) -> None:
    found, shared = budget(job, workers, allowed)
    assert (found, shared.in_flight) == (tasks, each) and found * shared.in_flight <= allowed
    assert shared.fingerprint == job.fingerprint
    with pytest.raises(InputError, match="must be 1 or more"):
        score_shards([], job, in_flight_per_server=0)
    assert list(score_shards([], job)) == []  # starts nothing


ON_CLUSTER = """
import os, pickle, sys
import ray
from aesthetic_curate.ray import score_shards
shards, job = pickle.load(open(sys.argv[1], "rb"))
for stats in score_shards(shards, job):
    address = ray.get_runtime_context().gcs_address
    print(stats["shard"]["name"], address, os.environ["RAY_USAGE_STATS_ENABLED"])
assert not ray.is_initialized()
"""


def test_it_works_on_the_cluster_of_ray_address(
    cluster: None, shards: list[Shard], job: Job, tmp_path: Path
) -> None:
    address = ray.get_runtime_context().gcs_address
    task = tmp_path / "task"
    task.write_bytes(pickle.dumps((shards, job)))
    environment = {key: value for key, value in os.environ.items() if "USAGE" not in key}
    done = subprocess.run(
        [sys.executable, "-c", ON_CLUSTER, str(task)],
        env={**environment, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    expected = {f"{shard.name} {address} 0" for shard in shards}
    assert expected <= set(done.stdout.splitlines())
    assert_as_done_here(shards, job, tmp_path / "here")
