"""Which rows the gallery shows: a seeded draw from every bucket, out of few shards."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aesthetic_curate.report.values import Pick

CANDIDATES = 8  # times as many as are shown; so few shards can give what is shown
MOST_SHARDS = 16  # opened for images: a big tar is indexed first, a remote one copied


class Draw:
    """Keeps up to `size` rows a bucket, each equally likely, whatever the order of the shards."""

    def __init__(self, edges: Sequence[float], size: int, seed: int) -> None:
        self._inner = np.asarray(edges[1:-1], np.float64)
        self._size = size
        self._seed = seed
        self._kept = np.empty((0, 4))  # bucket, lot, shard, row

    def add(self, shard: int, name: str, scores: NDArray[np.float32]) -> None:
        """Take in a shard's scores (n,), row by row; NaN has none."""
        lots = shard_random(self._seed, name).random(len(scores))
        rows = np.flatnonzero(np.isfinite(scores))
        buckets = np.searchsorted(self._inner, scores[rows].astype(np.float64), side="right")
        shards = np.full(len(rows), shard)
        drawn = _first_of_each(np.stack([buckets, lots[rows], shards, rows], axis=1), self._size)
        self._kept = _first_of_each(np.concatenate([self._kept, drawn]), self._size)

    def picks(self) -> tuple[Pick, ...]:
        """Bucket by bucket, in the order of the lots."""
        columns = self._kept[:, [0, 2, 3]].astype(np.int64)
        return tuple(Pick(*row) for row in columns.tolist())


def shard_random(seed: int, name: str) -> np.random.Generator:
    """Random numbers of a shard's own: the same ones whatever other shards there are."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def choose(
    picks: Sequence[Pick], per_bucket: int, most_shards: int = MOST_SHARDS
) -> tuple[Pick, ...]:
    """The picks to show, `per_bucket` of a bucket at most, out of `most_shards` shards at most.

    Where the first ones of every bucket lie in few enough shards, they are it. Else the shards are
    chosen that give most, one by one.
    """
    shown = _first_picks(picks, per_bucket)
    if len({pick.shard for pick in shown}) <= most_shards:
        return shown
    found = Counter(pick.bucket for pick in picks)
    wanted = {bucket: min(n, per_bucket) for bucket, n in found.items()}
    needed = dict(wanted)
    per_shard: dict[int, Counter[int]] = {}
    for pick in picks:
        per_shard.setdefault(pick.shard, Counter())[pick.bucket] += 1
    chosen: set[int] = set()
    while len(chosen) < most_shards and per_shard:
        # In parts of what a bucket wants: one of its three images is more than one of twelve.
        gains = {
            shard: sum(min(n, needed[at]) / wanted[at] for at, n in counts.items())
            for shard, counts in per_shard.items()
        }
        best = max(gains, key=lambda shard: (gains[shard], -shard))
        if not gains[best]:
            break
        for bucket, count in per_shard.pop(best).items():
            needed[bucket] -= min(count, needed[bucket])
        chosen.add(best)
    return _first_picks([pick for pick in picks if pick.shard in chosen], per_bucket)


def _first_picks(picks: Sequence[Pick], per_bucket: int) -> tuple[Pick, ...]:
    taken: Counter[int] = Counter()
    shown = []
    for pick in picks:
        taken[pick.bucket] += 1
        if taken[pick.bucket] <= per_bucket:
            shown.append(pick)
    return tuple(shown)


def _first_of_each(rows: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The `size` rows of each bucket (column 0) with the lowest lots (column 1), sorted."""
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    buckets, starts = np.unique(rows[:, 0], return_index=True)
    ranks = np.arange(len(rows)) - starts[np.searchsorted(buckets, rows[:, 0])]
    first: NDArray[np.float64] = rows[ranks < size]
    return first
