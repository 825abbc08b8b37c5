"""Which rows of a scored data set are kept.

The result is row numbers, four bytes a kept row; a share by rank needs four bytes a scored row
besides, while it looks for the score at the cut. Both fit a hundred million rows in memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.errors import InputError
from aesthetic_curate.ahead import ReadAhead
from aesthetic_curate.likeness import PREFIX
from aesthetic_curate.results import Results
from aesthetic_curate.storage import READERS

Rows = NDArray[np.uint32]
STEP, LIKE_STEP = 0.5, 0.02  # between the thresholds of a count: of scores, of cosines


@dataclass(frozen=True)
class Condition:
    """A score column within bounds, both kept. They are compared as float32, as scores are."""

    output: str
    low: float = -math.inf
    high: float = math.inf

    def holds(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which scores lie within; NaN never does."""
        held: NDArray[np.bool_] = (scores >= np.float32(self.low)) & (
            scores <= np.float32(self.high)
        )
        return held


@dataclass(frozen=True)
class TopShare:
    """The best `percent` of the scored rows, rounded up. Equal scores at the cut: first come."""

    output: str
    percent: str  # as typed: "0.1" is exact, and 0.1 is not

    def count(self, scored: int) -> int:
        """How many of so many rows."""
        return math.ceil(Fraction(self.percent) * scored / 100)


@dataclass(frozen=True)
class Criteria:
    """What is kept: rows that meet all conditions and, where asked for, are among the best."""

    conditions: tuple[Condition, ...] = ()
    top: TopShare | None = None

    def to_json(self) -> dict[str, Any]:
        """For manifests and fingerprints; a bound that is not set is null."""
        conditions = [
            {name: None if value in (-math.inf, math.inf) else value for name, value in one.items()}
            for one in map(asdict, self.conditions)
        ]
        return {"conditions": conditions, "top": asdict(self.top) if self.top else None}


@dataclass(frozen=True)
class Selection:
    """Row numbers (ascending, uint32) of each shard of the results, in the results' order."""

    rows: Sequence[Rows]

    @property
    def count(self) -> int:
        return sum(map(len, self.rows))

    @property
    def digest(self) -> str:
        """SHA-256 over all row numbers."""
        found = hashlib.sha256()
        for rows in self.rows:
            found.update(len(rows).to_bytes(8, "little"))
            found.update(rows.astype("<u4", copy=False).tobytes())
        return found.hexdigest()


def parse_condition(results: Results, text: str, side: str, head: str) -> Condition:
    """`5.5`, of `head`, or `HEAD=5.5`; `side` is "min" or "max". Raises InputError."""
    name, _, number = text.rpartition("=")
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise InputError(f"--{side} takes a number or HEAD=NUMBER, got {text!r}")
    output = results.output(name or head)
    return Condition(output, low=bound) if side == "min" else Condition(output, high=bound)


def parse_share(results: Results, text: str, head: str) -> TopShare:
    """A percentage above 0 and up to 100. Raises InputError."""
    try:
        percent = Decimal(text)
    except InvalidOperation:
        percent = Decimal("nan")
    if not (percent.is_finite() and 0 < percent <= 100):
        raise InputError(f"--top-percent takes a number above 0 and up to 100, got {text!r}")
    return TopShare(results.output(head), str(percent))


def select(results: Results, criteria: Criteria) -> Selection:
    """The rows that meet the criteria. Reads each score column once, the ranked one twice.

    Raises ValueError for no criteria at all.
    """
    if not criteria.conditions and criteria.top is None:
        raise ValueError("no criteria: name a condition, or a share of the best")
    cut = _Cut(results, criteria.top) if criteria.top else None
    outputs = {condition.output for condition in criteria.conditions}
    if cut:
        outputs.add(cut.output)
    return Selection([_kept(scores, criteria, cut) for scores in _each_shard(results, outputs)])


def count_kept(results: Results, output: str) -> Iterator[tuple[float, int]]:
    """How many rows each threshold keeps, in steps of 0.5 from the lowest score to the highest.

    Cosines of `--like` are counted in steps of 0.02.
    """
    stats = results.score_stats[output]
    if not stats.count:
        return
    width = LIKE_STEP if output.startswith(PREFIX) else STEP
    steps = range(math.floor(stats.low / width), math.floor(stats.high / width) + 1)
    thresholds = np.array([step * width for step in steps], np.float32)
    below = np.zeros(len(thresholds), np.int64)
    scored = 0
    for found in _each_shard(results, [output]):
        scores = _scored(found[output])
        scores.sort()
        below += np.searchsorted(scores, thresholds)
        scored += len(scores)
    for threshold, count in zip(thresholds, below, strict=True):
        yield float(threshold), scored - int(count)


class _Cut:
    """The score at which the share ends, and how many rows of just that score are within it."""

    def __init__(self, results: Results, top: TopShare) -> None:
        scores = np.empty(results.samples, np.float32)
        scored = 0
        for columns in _each_shard(results, [top.output]):
            found = _scored(columns[top.output])
            scores[scored : scored + len(found)] = found
            scored += len(found)
        scores = scores[:scored]
        kept = top.count(scored)
        if kept:
            scores.partition(scored - kept)
        self.output = top.output
        self.score = scores[scored - kept] if kept else np.float32(math.inf)
        self.ties = kept - int((scores > self.score).sum())  # still to be given out

    def within(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which rows are within the share. To be asked shard after shard, in order."""
        tied = np.flatnonzero(scores == self.score)[: self.ties]
        self.ties -= len(tied)
        within: NDArray[np.bool_] = scores > self.score
        within[tied] = True
        return within


def _kept(scores: Mapping[str, NDArray[np.float32]], criteria: Criteria, cut: _Cut | None) -> Rows:
    """The rows of one shard that meet the criteria."""
    kept = np.ones(len(next(iter(scores.values()))), np.bool_)
    for condition in criteria.conditions:
        kept &= condition.holds(scores[condition.output])
    if cut:
        kept &= cut.within(scores[cut.output])
    return np.flatnonzero(kept).astype(np.uint32)


def _each_shard(
    results: Results, outputs: Collection[str]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The score columns of each shard, in order; the next ones are read meanwhile."""
    with closing(ReadAhead(READERS)) as ahead:
        yield from ahead.map(
            lambda shard: {output: results.scores(shard, output) for output in outputs},
            results.shards,
        )


def _scored(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    return scores[~np.isnan(scores)]
