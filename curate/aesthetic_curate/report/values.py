"""What a report says, as values: collected from a scored data set, drawn by the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_curate.stats import ScoreStats


@dataclass(frozen=True)
class Bars:
    """A histogram: bar k counts the scores in [edges[k], edges[k + 1]).

    `below` and `above` are the scores outside of it: a few outliers must not squeeze the rest.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int = 0
    above: int = 0


@dataclass(frozen=True)
class Threshold:
    """How many images a filter with `--min` at `score` keeps."""

    score: float
    kept: int


@dataclass(frozen=True)
class HeadReport:
    """One head's scores. `exact` says whether the percentiles come from the scores themselves."""

    name: str
    output: str
    stats: ScoreStats
    bars: Bars
    percentiles: tuple[tuple[float, float], ...]  # (percent, score)
    thresholds: tuple[Threshold, ...]
    exact: bool


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation of each head with each, over `rows` sampled rows; NaN: undefined."""

    outputs: tuple[str, ...]
    matrix: NDArray[np.float64]
    rows: int


@dataclass(frozen=True)
class Failure:
    """A sample without a score."""

    key: str
    shard: str
    row: int
    status: str
    error: str


@dataclass(frozen=True)
class Reason:
    """Why samples have no score, with one of them. Numbers in it may be left out as `N`."""

    status: str
    text: str
    count: int
    example: str


@dataclass(frozen=True)
class Failures:
    """Samples without a score: counts by reason, most frequent first, and the first of them.

    `other` counts those of reasons beyond the ones that are told apart.
    """

    reasons: tuple[Reason, ...] = ()
    first: tuple[Failure, ...] = ()
    other: int = 0


@dataclass(frozen=True)
class Pick:
    """A row that the gallery may show. `shard` is its position in `Results.shards`."""

    bucket: int
    shard: int
    row: int


@dataclass(frozen=True)
class Summary:
    """A scored data set, without its images.

    `unfinished` names shards that have rows, and no file that marks them done.
    `rows_read` is below `samples` where a seeded choice of shards was read for what statistics do
    not hold: the gallery, the reasons of failures, the correlation. `bucket_edges` cut the scores
    of `gallery_head`; the outermost buckets hold what lies beyond, too. `picks` are in the order
    of the draw. `likes` are the SHA-256 of aesthetic embeddings' files, by column.
    """

    scored: str
    inputs: tuple[str, ...]
    shards: int
    unfinished: tuple[
        str, ...
    ]  # shards whose rows are there, and not the file that marks them done
    samples: int
    statuses: Mapping[str, int]
    notes: Mapping[str, int]
    heads: tuple[HeadReport, ...]
    failures: Failures
    rows_read: int
    shards_read: int
    fingerprint: str
    provenance: Mapping[str, Mapping[str, Any]]
    seeded: bool
    first_finished: str
    last_finished: str
    seconds: float
    correlation: Correlation | None = None
    gallery_head: str = ""
    bucket_edges: tuple[float, ...] = ()
    bucket_counts: tuple[int, ...] = ()
    picks: tuple[Pick, ...] = ()
    likes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Thumbnail:
    """An image of the gallery: what it is, and a small JPEG of it, `size` (width, height)."""

    key: str
    shard: str
    row: int
    score: float
    scores: Mapping[str, float]
    caption: str
    width: int | None
    height: int | None
    jpeg: bytes
    size: tuple[int, int]


@dataclass(frozen=True)
class Bucket:
    """Images of scores in [low, high); None is no bound. `count` is of all, not of those shown."""

    low: float | None
    high: float | None
    count: int
    thumbnails: Sequence[Thumbnail]


@dataclass(frozen=True)
class Gallery:
    """Buckets, highest first. `absent` says why there are no images, or why some are missing."""

    head: str = ""
    buckets: Sequence[Bucket] = ()
    absent: Sequence[str] = field(default=())
