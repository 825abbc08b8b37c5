"""Numbers from numbers: latencies, rates, Triton's statistics."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from aesthetic_bench.company import Ticks
from aesthetic_bench.engine import cycled_batches, time_batches
from aesthetic_bench.measurements import Rate, RequestTimes, latency
from aesthetic_bench.statistics import ModelWork, read_statistics, work_between


def stage(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def answer(queue_ns: int = 1000) -> dict[str, Any]:
    """Of Triton 2.51.0 after six requests in two executions of batches 2 and 4, shortened."""
    return {
        "model_stats": [
            {
                "name": "clip_image",
                "inference_count": 6,
                "execution_count": 2,
                "inference_stats": {
                    "success": stage(6, 9000),
                    "fail": stage(0, 0),
                    "queue": stage(6, queue_ns),
                    # Every request is charged with its whole batch here:
                    "compute_infer": stage(6, 2 * 700 + 4 * 900),
                },
                "batch_stats": [
                    {
                        "batch_size": size,
                        "compute_input": stage(1, 10),
                        "compute_infer": stage(1, ns),
                        "compute_output": stage(1, 5),
                    }
                    for size, ns in ((2, 700), (4, 900))
                ],
            },
            {
                "name": "idle",
                "inference_count": 0,
                "execution_count": 0,
                "inference_stats": {name: stage(0, 0) for name in ("success", "fail", "queue")},
                "batch_stats": [],
            },
        ]
    }


def test_latency() -> None:
    found = latency([float(n) for n in range(1, 102)])
    assert asdict(found) == pytest.approx(
        {"avg_ms": 51.0, "p50_ms": 51.0, "p90_ms": 91.0, "p95_ms": 96.0, "p99_ms": 100.0}
    )


def test_request_times() -> None:
    second = 1_000_000_000
    times = RequestTimes((5 * second, 6 * second, 5 * second), (7 * second, 9 * second, 6 * second))
    assert times.measured_s == 4.0
    assert times.requests_per_s == 0.75
    assert times.latency.avg_ms == pytest.approx(2000.0)


def test_rate_counts_images() -> None:
    rate = Rate(8, (2.0, 6.0))
    assert rate.images_per_s == 2.0
    assert rate.as_dict()["fastest_execution_ms"] == 2000.0


def test_statistics_count_a_batch_once() -> None:
    work = read_statistics(answer())["clip_image"]
    assert (work.requests, work.inferences, work.executions, work.mean_batch) == (6, 6, 2, 3.0)
    assert work.compute_infer_ns == 1600
    assert work.busy_ns == 1630
    assert work.as_dict()["compute_infer_ms_per_execution"] == pytest.approx(800 / 1e6)
    assert work.as_dict()["busy_ms_per_item"] == pytest.approx(1630 / 6 / 1e6)
    assert work.as_dict()["queue_ms_per_request"] == pytest.approx(1000 / 6 / 1e6)


def test_work_between_snapshots() -> None:
    before, after = read_statistics(answer()), read_statistics(answer())
    assert work_between(before, after) == {}
    assert set(work_between({}, after)) == {"clip_image"}
    more = ModelWork(requests=8, inferences=10, executions=3, queue_ns=1500)
    done = work_between(before, {"clip_image": more})["clip_image"]
    assert (done.requests, done.inferences, done.executions, done.queue_ns) == (2, 4, 1, 500)


def test_batches_take_turns() -> None:
    ran: list[int] = []
    rates = time_batches(ran.append, (1, 4, 8), seconds=0)
    assert ran == [1] * 8 + [4] * 2 + [8]
    assert [rate.batch for rate in rates] == [1, 4, 8]
    assert all(rate.images_per_s > 0 for rate in rates)


def test_company() -> None:
    before = Ticks(total_s=100.0, busy_s=50.0, stolen_s=1.0, own_s=5.0)
    after = Ticks(total_s=120.0, busy_s=68.0, stolen_s=2.0, own_s=20.0)
    assert after.company_since(before) == pytest.approx(
        {"other_processes_share_of_cpu": 3 / 20, "stolen_share_of_cpu": 1 / 20}
    )
    now = Ticks.now()
    assert now.total_s > now.busy_s > 0
    assert 0 <= Ticks.now().company_since(now)["other_processes_share_of_cpu"] <= 1


def test_cycled_batches() -> None:
    take = cycled_batches(3)
    assert [take(2), take(4)] == [[0, 1], [2, 0, 1, 2]]
