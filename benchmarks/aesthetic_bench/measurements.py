"""What was measured, as numbers with units: request times, latencies, rates."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Of single requests, in milliseconds."""

    avg_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class RequestTimes:
    """When each request of a job began and ended, in nanoseconds of one clock."""

    began_ns: tuple[int, ...]
    ended_ns: tuple[int, ...]

    @property
    def measured_s(self) -> float:
        """From the first request's beginning to the last one's end."""
        return (max(self.ended_ns) - min(self.began_ns)) / 1e9

    @property
    def requests_per_s(self) -> float:
        """Of the whole job: its first and last requests, which no others overlap, count in full."""
        return len(self.ended_ns) / self.measured_s

    @property
    def latency(self) -> Latency:
        pairs = zip(self.began_ns, self.ended_ns, strict=True)
        return latency([(ended - began) / 1e6 for began, ended in pairs])


def latency(milliseconds: Sequence[float]) -> Latency:
    """Mean and percentiles, interpolated between neighbours, of at least one latency."""
    values = np.asarray(milliseconds, dtype=np.float64)
    p50, p90, p95, p99 = (float(p) for p in np.percentile(values, (50, 90, 95, 99)))
    return Latency(float(values.mean()), p50, p90, p95, p99)


@dataclass(frozen=True)
class Rate:
    """Executions of one batch size in a loop, timed one by one, in seconds."""

    batch: int
    executions_s: tuple[float, ...]

    @property
    def images_per_s(self) -> float:
        return self.batch * len(self.executions_s) / sum(self.executions_s)

    def as_dict(self) -> dict[str, float | int]:
        """Plain values for JSON."""
        return {
            "batch": self.batch,
            "executions": len(self.executions_s),
            "images_per_s": self.images_per_s,
            "execution_p50_ms": float(np.median(self.executions_s)) * 1e3,
            "fastest_execution_ms": min(self.executions_s) * 1e3,
        }


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each figure's median over the rounds, which all have the same figures."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
