"""Times of a call on a device: many calls, each between two events, after a warm-up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

WARM_UP_CALLS = 3
LEAST_CALLS = 5
MOST_CALLS = 2000


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call; `total_s` is all of them back to back."""

    calls: int
    total_s: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure(call: Callable[[], object], device: torch.device, seconds: float) -> Times:
    """Run `call` for about `seconds`. Latency is each call's own; throughput is of all together.

    On CUDA the calls are queued one after the other as a busy server would, and events on the
    device take the times: a host clock would measure how fast Python queues them.
    """
    for _ in range(WARM_UP_CALLS):
        call()
    synchronize(device)
    begin = time.perf_counter()
    call()
    synchronize(device)
    one = max(time.perf_counter() - begin, 1e-6)
    calls = min(max(int(seconds / one), LEAST_CALLS), MOST_CALLS)
    times = _cuda_times(call, calls) if device.type == "cuda" else _host_times(call, calls)
    total_s = sum(times) / 1e3
    ordered = sorted(times)
    return Times(
        calls=calls,
        total_s=total_s,
        mean_ms=total_s / calls * 1e3,
        p50_ms=quantile(ordered, 0.50),
        p99_ms=quantile(ordered, 0.99),
        max_ms=ordered[-1],
    )


def quantile(ordered: list[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cuda_times(call: Callable[[], object], calls: int) -> list[float]:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in itertools.pairwise(events)]


def _host_times(call: Callable[[], object], calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1e3)
    return times
