"""Collects what a report says from a scored data set: statistics, draws, failures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from aesthetic_curate import columns
from aesthetic_curate.report import distributions
from aesthetic_curate.report.distributions import ExactScores, MergedScores, Scores
from aesthetic_curate.report.gallery import PER_BUCKET
from aesthetic_curate.report.sampling import CANDIDATES, MOST_SHARDS, Draw, shard_random
from aesthetic_curate.report.values import (
    Correlation,
    Failure,
    Failures,
    HeadReport,
    Reason,
    Summary,
)
from aesthetic_curate.results import Results, ScoredShard

EXACT_ROWS = 5_000_000  # rows read at most; 20 MB a head, some ten seconds
CORRELATION_ROWS = 100_000
FIRST_FAILURES = 50
MOST_REASONS = 1_000  # told apart while counting
SHOWN_REASONS = 20

_CODED = re.compile(r"\[[a-z_]+\]$")  # an image's error; its numbers are that image's own
_NUMBER = re.compile(r"\d[\d.,]*")
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+")


@dataclass(frozen=True)
class ReportOptions:
    """`head` orders the gallery (a head's name or its column; None: the first one).

    It shows `per_bucket` images of a bucket (0: no gallery), out of `gallery_shards` shards.
    """

    head: str | None = None
    per_bucket: int = PER_BUCKET
    gallery_shards: int = MOST_SHARDS
    seed: int = 0
    exact_rows: int = EXACT_ROWS


def collect(results: Results, options: ReportOptions) -> Summary:
    """Everything but the images. Raises InputError for a head that was not scored.

    Counts and statistics are those of all shards. Rows are read up to `exact_rows`: of all shards,
    or of a seeded choice of them.
    """
    output = results.output(options.head) if options.head else next(iter(results.heads))
    chosen = _choose_shards(results, options)
    read = _Read(results, _edges(results, output, chosen), output, options)
    for position in chosen:
        read.add(position)
    exact = len(chosen) == len(results.shards)
    scores = {
        name: read.scores(name) if exact else _merged(results, name) for name in results.heads
    }
    finished = sorted(str(shard.stats["finished"]) for shard in results.shards)
    return Summary(
        scored=results.folder.url,
        inputs=_inputs(results),
        shards=len(results.shards),
        unfinished=tuple(results.unfinished),
        samples=results.samples,
        statuses=results.statuses,
        notes=_notes(results),
        heads=_heads(results, scores),
        failures=read.failures(),
        rows_read=read.rows,
        shards_read=len(chosen),
        fingerprint=results.fingerprint,
        provenance=results.provenance,
        seeded=results.seeded,
        first_finished=finished[0],
        last_finished=finished[-1],
        seconds=sum(float(shard.stats["seconds"]) for shard in results.shards),
        correlation=read.correlation(),
        gallery_head=output,
        bucket_edges=read.edges,
        bucket_counts=distributions.bucket_counts(scores[output], read.edges),
        picks=read.draw.picks(),
        likes=results.likes,
    )


@dataclass
class _Read:
    """What accumulates while shards are read."""

    results: Results
    edges: tuple[float, ...]
    output: str
    options: ReportOptions
    rows: int = 0
    _scores: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    _sample: list[NDArray[np.float32]] = field(default_factory=list)
    _reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    _examples: dict[tuple[str, str], str] = field(default_factory=dict)
    _first: list[Failure] = field(default_factory=list)
    _other: int = 0

    def __post_init__(self) -> None:
        size = CANDIDATES * max(self.options.per_bucket, 1)
        self.draw = Draw(self.edges, size, self.options.seed)

    def add(self, position: int) -> None:
        """Read a shard's scores, and its failures where it has some."""
        shard = self.results.shards[position]
        table = self.results.columns(shard, list(self.results.heads))
        found = {name: _floats(table[name]) for name in table.column_names}
        for name, scores in found.items():
            self._scores.setdefault(name, []).append(scores)
        self.rows += shard.samples
        if self.edges:
            self.draw.add(position, shard.name, found[self.output])
        if len(found) > 1:
            self._add_sample(shard.name, np.stack(list(found.values()), axis=1))
        if shard.stats["statuses"].get("ok", 0) < shard.samples:
            self._add_failures(shard)

    def scores(self, output: str) -> ExactScores:
        """All scores of the shards that were read; their memory goes over to the result."""
        return ExactScores(np.concatenate(self._scores.pop(output)))

    def correlation(self) -> Correlation | None:
        if len(self.results.heads) < 2 or not self._sample:
            return None
        sample = np.concatenate(self._sample).astype(np.float64)
        sample = sample[np.isfinite(sample).all(axis=1)]
        if len(sample) < 2:
            return None
        with np.errstate(invalid="ignore", divide="ignore"):  # a head that is constant
            matrix = np.corrcoef(sample, rowvar=False)
        return Correlation(tuple(self.results.heads), matrix, len(sample))

    def failures(self) -> Failures:
        common = self._reasons.most_common(SHOWN_REASONS)
        reasons = [Reason(*reason, count, self._examples[reason]) for reason, count in common]
        other = self._other + sum(self._reasons.values()) - sum(count for _, count in common)
        return Failures(tuple(reasons), tuple(self._first), other)

    def _add_sample(self, name: str, scores: NDArray[np.float32]) -> None:
        share = CORRELATION_ROWS / max(1, min(self.results.samples, self.options.exact_rows))
        if share < 1:
            random = shard_random(self.options.seed + 1, name)
            scores = scores[random.random(len(scores)) < share]
        self._sample.append(scores)

    def _add_failures(self, shard: ScoredShard) -> None:
        names = [columns.KEY, columns.STATUS, columns.ERROR]
        table = self.results.columns(shard, names)
        rows = np.flatnonzero(pc.not_equal(table[columns.STATUS], "ok").to_numpy())
        failed = table.take(rows)
        listed = failed.slice(0, FIRST_FAILURES - len(self._first)).to_pylist()
        for row, found in zip(rows.tolist(), listed, strict=False):
            error = found["error"] or ""
            self._first.append(Failure(found["key"], shard.name, row, found["status"], error))
        # Once a reason, not once a sample: a shard whose every URL is dead has thousands.
        groups = failed.group_by([columns.STATUS, columns.ERROR], use_threads=False)
        for group in groups.aggregate([(columns.KEY, "first"), (columns.KEY, "count")]).to_pylist():
            self._count(
                (group["status"], general(group["error"] or "")),
                group[f"{columns.KEY}_count"],
                group[f"{columns.KEY}_first"],
            )

    def _count(self, reason: tuple[str, str], count: int, example: str) -> None:
        if reason not in self._reasons and len(self._reasons) >= MOST_REASONS:
            self._other += count
            return
        self._reasons[reason] += count
        self._examples.setdefault(reason, example)


def general(error: str) -> str:
    """An error's text without what is one sample's own: addresses, and numbers of an image."""
    text = _ADDRESS.sub("URL", error)
    return _NUMBER.sub("N", text) if _CODED.search(text) else text


def _choose_shards(results: Results, options: ReportOptions) -> list[int]:
    """Positions of the shards whose rows are read, ascending."""
    if results.samples <= options.exact_rows:
        return list(range(len(results.shards)))
    chosen: list[int] = []
    rows = 0
    for position in np.random.default_rng(options.seed).permutation(len(results.shards)).tolist():
        samples = results.shards[position].samples
        if not chosen or rows + samples <= options.exact_rows:
            chosen.append(position)
            rows += samples
    return sorted(chosen)


def _edges(results: Results, output: str, chosen: Sequence[int]) -> tuple[float, ...]:
    """The gallery's buckets, known before rows are read.

    The stats' histograms are too coarse for scores that hardly differ: those are read first.
    """
    merged = _merged(results, output)
    coarse = merged.high - merged.low < distributions.FEWEST_BUCKETS * merged.resolution
    if not merged.count or not coarse or len(chosen) < len(results.shards):
        return distributions.bucket_edges(merged)
    parts = [results.scores(results.shards[position], output) for position in chosen]
    return distributions.bucket_edges(ExactScores(np.concatenate(parts)))


def _merged(results: Results, output: str) -> MergedScores:
    return MergedScores(results.score_stats[output])


def _heads(results: Results, scores: Mapping[str, Scores]) -> tuple[HeadReport, ...]:
    return tuple(
        distributions.describe(name, output, results.score_stats[output], scores[output])
        for output, name in results.heads.items()
    )


def _inputs(results: Results) -> tuple[str, ...]:
    """What was scored: the input if it is one, else the folders of the inputs, in their order."""
    urls = {str(shard.stats["input"]["url"]): shard.shard.kind for shard in results.shards}
    if len(urls) == 1:
        return tuple(urls)
    folders = (url if kind == "folder" else url.rpartition("/")[0] for url, kind in urls.items())
    return tuple(dict.fromkeys(folders))


def _notes(results: Results) -> dict[str, int]:
    notes: Counter[str] = Counter()
    for shard in results.shards:
        notes.update(shard.stats.get("notes", {}))
    return dict(notes)


def _floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    return np.asarray(column.cast(pa.float32()).to_numpy(), np.float32)
