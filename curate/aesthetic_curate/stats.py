"""Statistics of scores that add up: of chunks to a shard's, of shards to a data set's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS_PER_UNIT = 10  # histogram bins of a width of 0.1, aligned to whole numbers


@dataclass
class ScoreStats:
    """Count, mean, standard deviation, extremes and histogram of one head's scores.

    `bins` counts scores by `floor(score * 10)`.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared differences from the mean
    low: float = math.inf
    high: float = -math.inf
    bins: dict[int, int] = field(default_factory=dict)

    def add(self, scores: NDArray[np.float32]) -> None:
        """Take in scores (n,); those that are not finite are left out."""
        values = scores[np.isfinite(scores)].astype(np.float64)
        if not len(values):
            return
        mean = float(values.mean())
        numbers, counts = np.unique(
            np.floor(values * BINS_PER_UNIT).astype(np.int64), return_counts=True
        )
        self.merge(
            ScoreStats(
                len(values),
                mean,
                float(((values - mean) ** 2).sum()),
                float(values.min()),
                float(values.max()),
                dict(zip(numbers.tolist(), counts.tolist(), strict=True)),
            )
        )

    def merge(self, other: ScoreStats) -> None:
        """Take in another's scores (Chan, Golub and LeVeque 1979, pairwise update)."""
        total = self.count + other.count
        if not other.count:
            return
        apart = other.mean - self.mean
        self.squares += other.squares + apart**2 * self.count * other.count / total
        self.mean += apart * other.count / total
        self.count = total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        for number, count in other.bins.items():
            self.bins[number] = self.bins.get(number, 0) + count

    @property
    def std(self) -> float:
        """Of the population."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def to_json(self) -> dict[str, Any]:
        """As the stats file has it; without scores the extremes are null."""
        start = min(self.bins, default=0)
        counts = [0] * (max(self.bins, default=-1) - start + 1)
        for number, count in self.bins.items():
            counts[number - start] = count
        return {
            "count": self.count,
            "mean": self.mean,
            "std": self.std,
            "min": self.low if self.count else None,
            "max": self.high if self.count else None,
            "histogram": {
                "start": start / BINS_PER_UNIT,
                "width": 1 / BINS_PER_UNIT,
                "counts": counts,
            },
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> ScoreStats:
        """The inverse of `to_json`."""
        if not found["count"]:
            return cls()
        start = round(found["histogram"]["start"] * BINS_PER_UNIT)
        bins = {start + at: n for at, n in enumerate(found["histogram"]["counts"]) if n}
        squares = found["std"] ** 2 * found["count"]
        return cls(found["count"], found["mean"], squares, found["min"], found["max"], bins)
