"""Worker processes that end in time when a run is stopped."""

from __future__ import annotations

import multiprocessing
import signal
import time
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import pytest

from aesthetic_curate import processes

WORKERS = 4


def block(_: int) -> None:
    signal.pause()


def test_blocked_workers_share_one_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_GRACE_S", 1.0)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(WORKERS, context)
    _: list[Future[Any]] = [pool.submit(block, number) for number in range(WORKERS)]
    workers = list((pool._processes or {}).values())
    assert len(workers) == WORKERS
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), processes._stopping(pool, context.Event()):
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 1.0 * (WORKERS - 1)
    assert not any(processes.is_alive(worker.pid or 0) for worker in workers)
