"""Histograms, percentiles and thresholds, from all scores or from histograms that were merged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aesthetic_curate.report.values import Bars, HeadReport, Threshold
from aesthetic_curate.stats import BINS_PER_UNIT, ScoreStats

PERCENTS = (1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0)
MOST_BARS, FEWEST_BARS = 60, 12  # fewer for few images: bars of one image say nothing
MOST_THRESHOLDS = 20
MOST_BUCKETS = 20
BUCKET_WIDTH = 0.5  # of the LAION galleries; another one where it would give too few or too many
FEWEST_BUCKETS = 4
TAIL_PERCENT = 0.1  # beyond it a score may be an outlier


class Scores(Protocol):
    """What the functions below need to know of a head's scores."""

    count: int
    low: float
    high: float
    resolution: float  # `below` is right at its multiples; 0: everywhere

    def below(self, edges: Sequence[float]) -> NDArray[np.int64]:
        """How many scores are below each edge."""

    def percentiles(self, percents: Sequence[float]) -> NDArray[np.float64]:
        """The scores that so many percent are at or below."""


class ExactScores:
    """All scores of a head, float32 (n,)."""

    resolution = 0.0

    def __init__(self, scores: NDArray[np.float32]) -> None:
        self._sorted = np.sort(scores[np.isfinite(scores)])
        self.count = len(self._sorted)
        self.low, self.high = map(float, self._sorted[[0, -1]]) if self.count else (0.0, 0.0)

    def below(self, edges: Sequence[float]) -> NDArray[np.int64]:
        return np.searchsorted(self._sorted, np.asarray(edges, np.float64), side="left")

    def percentiles(self, percents: Sequence[float]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.percentile(self._sorted, percents).astype(np.float64)
        return found


class MergedScores:
    """Scores known by a histogram of width 0.1; percentiles are interpolated within its bins."""

    resolution = 1 / BINS_PER_UNIT

    def __init__(self, stats: ScoreStats) -> None:
        first, last = min(stats.bins, default=0), max(stats.bins, default=0)
        counts = [stats.bins.get(number, 0) for number in range(first, last + 1)]
        self._first = first
        self._cumulated = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.count, self.low, self.high = stats.count, stats.low, stats.high

    def below(self, edges: Sequence[float]) -> NDArray[np.int64]:
        numbers = np.rint(np.asarray(edges) * BINS_PER_UNIT).astype(np.int64) - self._first
        found: NDArray[np.int64] = self._cumulated[np.clip(numbers, 0, len(self._cumulated) - 1)]
        return found

    def percentiles(self, percents: Sequence[float]) -> NDArray[np.float64]:
        edges = (self._first + np.arange(len(self._cumulated))) / BINS_PER_UNIT
        ranks = np.asarray(percents) / 100 * self.count
        return np.clip(np.interp(ranks, self._cumulated, edges), self.low, self.high)


def describe(name: str, output: str, stats: ScoreStats, scores: Scores) -> HeadReport:
    """Everything the report says about a head's scores."""
    empty = not scores.count
    return HeadReport(
        name,
        output,
        stats,
        Bars((), ()) if empty else _bars(scores),
        () if empty else _percentiles(scores),
        () if empty else _thresholds(scores),
        exact=not scores.resolution,
    )


def bucket_edges(scores: Scores) -> tuple[float, ...]:
    """The edges of the gallery's buckets, ascending; () without scores.

    All scores are within, unless that takes too many buckets: then the outermost ones are open.
    """
    if not scores.count:
        return ()
    low, high = _central(scores)
    width = BUCKET_WIDTH
    if not FEWEST_BUCKETS <= len(_grid(low, high, width)) - 1 <= MOST_BUCKETS:
        width = round_step(high - low, MOST_BUCKETS // 2, scores.resolution)
    inner, outer = _span(low, high, width), _span(scores.low, scores.high, width)
    spare = MOST_BUCKETS - (inner[1] - inner[0])
    above = min(outer[1] - inner[1], (spare + 1) // 2)
    below = min(inner[0] - outer[0], spare - above)
    numbers = range(inner[0] - below, inner[1] + above + 1)
    return tuple(_decimal(number * width) for number in numbers)


def bucket_counts(scores: Scores, edges: Sequence[float]) -> tuple[int, ...]:
    """Scores a bucket; those beyond the outermost edges belong to the outermost buckets."""
    if len(edges) < 2:
        return ()
    inner = scores.below(edges[1:-1])
    return tuple(np.diff([0, *inner, scores.count]).tolist())


def round_step(span: float, most: int, finest: float = 0.0) -> float:
    """The smallest of ..., 0.1, 0.2, 0.5, 1, ... that cuts `span` into `most` parts at most."""
    if not span > 0:
        return max(finest, 0.1)
    exponent = math.floor(math.log10(span / most)) - 1
    while True:
        for mantissa in (1, 2, 5):
            step = _decimal(mantissa * 10.0**exponent)
            if step * most >= span * (1 - 1e-9) and step >= finest * (1 - 1e-9):
                return step
        exponent += 1


def decimals(step: float) -> int:
    """Digits after the point that numbers on a grid of this step need."""
    return max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 1


def _bars(scores: Scores) -> Bars:
    low, high = _central(scores)
    margin = (high - low) / 2
    low, high = max(scores.low, low - margin), min(scores.high, high + margin)
    most = max(FEWEST_BARS, min(MOST_BARS, round(2 * math.sqrt(scores.count))))
    edges = _grid(low, high, round_step(high - low, most, scores.resolution))
    counts = scores.below(edges)
    return Bars(
        edges,
        tuple(np.diff(counts).tolist()),
        below=int(counts[0]),
        above=scores.count - int(counts[-1]),
    )


def _percentiles(scores: Scores) -> tuple[tuple[float, float], ...]:
    return tuple(zip(PERCENTS, scores.percentiles(PERCENTS).tolist(), strict=True))


def _thresholds(scores: Scores) -> tuple[Threshold, ...]:
    low, high = _central(scores)
    step = round_step(high - low, MOST_THRESHOLDS - 2, scores.resolution)
    edges = _grid(scores.low, scores.high, step)
    if len(edges) > MOST_THRESHOLDS + 2:
        edges = _grid(low, high, step)
    kept = scores.count - scores.below(edges)
    return tuple(
        Threshold(edge, count) for edge, count in zip(edges, kept.tolist(), strict=True) if count
    )


def _central(scores: Scores) -> tuple[float, float]:
    low, high = scores.percentiles((TAIL_PERCENT, 100 - TAIL_PERCENT)).tolist()
    return low, high


def _grid(low: float, high: float, step: float) -> tuple[float, ...]:
    """Multiples of `step` that hold [low, high]; the last one is above `high`."""
    first, last = _span(low, high, step)
    return tuple(_decimal(number * step) for number in range(first, last + 1))


def _span(low: float, high: float, step: float) -> tuple[int, int]:
    """The first and the last of the grid, in steps."""
    return math.floor(low / step + 1e-9), math.floor(high / step + 1e-9) + 1


def _decimal(number: float) -> float:
    """The float that is written so: 0.3 and not 0.30000000000000004."""
    return float(f"{number:.10g}")
