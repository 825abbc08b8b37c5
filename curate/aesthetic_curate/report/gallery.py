"""Thumbnails of the picked rows, read from the data set's own images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from aesthetic_client.errors import AestheticError
from aesthetic_curate import columns
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.opening import open_source
from aesthetic_curate.report.sampling import MOST_SHARDS, choose
from aesthetic_curate.report.thumbnails import Small, scored_member, shrink
from aesthetic_curate.report.values import Bucket, Gallery, Pick, Summary, Thumbnail
from aesthetic_curate.results import Results, ScoredShard
from aesthetic_curate.samples import Source
from aesthetic_curate.storage import identity

PER_BUCKET = 12
CAPTIONS = ("caption", "txt", "text", "TEXT", "prompt", "title", "alt")  # the first one is shown
THREADS = 4  # shards read at once; decoding is in C, remote shards wait for their network
MOST_REASONS = 5  # of missing images, told on the page


@dataclass(frozen=True)
class _Found:
    """What came of a shard's picks: thumbnails, or why there are none."""

    thumbnails: Mapping[Pick, Thumbnail]
    reasons: Sequence[str] = ()


def build_gallery(
    results: Results,
    summary: Summary,
    per_bucket: int = PER_BUCKET,
    most_shards: int = MOST_SHARDS,
) -> Gallery:
    """The gallery of the summary's picks. What cannot be read is left out, and said."""
    if per_bucket < 1:
        return Gallery(summary.gallery_head, absent=("It was not asked for.",))
    if not summary.picks:
        return Gallery(summary.gallery_head, absent=("No image has a score.",))
    if all(one.shard.kind == "embeddings" for one in results.shards):
        reason = "The data set holds embeddings: there are no images to show."
        return Gallery(summary.gallery_head, absent=(reason,))
    picks = choose(summary.picks, per_bucket, most_shards)
    thumbnails: dict[Pick, Thumbnail] = {}
    reasons: Counter[str] = Counter()
    for found in _read_shards(results, summary, picks):
        thumbnails.update(found.thumbnails)
        reasons.update(found.reasons)
    buckets = _buckets(summary, picks, thumbnails) if thumbnails else ()
    return Gallery(summary.gallery_head, buckets, _absent(reasons, len(picks)))


def _read_shards(results: Results, summary: Summary, picks: Sequence[Pick]) -> Iterator[_Found]:
    by_shard: dict[int, list[Pick]] = {}
    for pick in sorted(picks, key=lambda pick: pick.row):
        by_shard.setdefault(pick.shard, []).append(pick)

    def read(position: int) -> _Found:
        shard, wanted = results.shards[position], by_shard[position]
        rows = _rows(results, shard, [pick.row for pick in wanted])
        try:
            return _read_shard(summary, shard, wanted, rows)
        except AestheticError as error:
            return _Found({}, [error.message] * len(wanted))

    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(read, sorted(by_shard))


def _rows(results: Results, shard: ScoredShard, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """The rows' columns that the page shows."""
    present = results.schema(shard).names
    shown = (columns.KEY, columns.IMAGE, columns.WIDTH, columns.HEIGHT, *results.heads, *CAPTIONS)
    names = [name for name in dict.fromkeys(shown) if name in present]
    found: list[dict[str, Any]] = results.rows(shard, np.asarray(numbers), names).to_pylist()
    return found


def _read_shard(
    summary: Summary, shard: ScoredShard, picks: Sequence[Pick], rows: Sequence[Mapping[str, Any]]
) -> _Found:
    thumbnails: dict[Pick, Thumbnail] = {}
    reasons: list[str] = []
    _check_size(shard)
    with open_source(shard.shard, shard.options) as source:
        if len(source) != shard.samples:
            raise _changed(shard)
        for pick, row in zip(picks, rows, strict=True):
            try:
                small = _small(shard, source, pick.row, row)
            except Exception as error:  # a file replaced since it was scored may hold anything
                reasons.append(_reason(error))
                continue
            thumbnails[pick] = _thumbnail(summary, shard.name, pick, row, small)
    return _Found(thumbnails, reasons)


def _check_size(shard: ScoredShard) -> None:
    """Raises UnreadableError where the input is gone, or of another size."""
    known = shard.stats["input"].get("bytes")
    if known is not None and known != identity(shard.shard.url)["bytes"]:
        raise _changed(shard)


def _changed(shard: ScoredShard) -> UnreadableError:
    return UnreadableError(f"{shard.shard.url} has changed since it was scored")


def _small(shard: ScoredShard, source: Source, number: int, row: Mapping[str, Any]) -> Small:
    # What a tar's row names by its extension is that member or none.
    others = () if shard.shard.kind == "tar" else shard.options.image_extensions
    data = scored_member(source.members(number), row.get(columns.IMAGE), others)
    if data is None:
        raise UnreadableError("the sample's image is not in the data set any more")
    return shrink(data)


def _thumbnail(
    summary: Summary, shard: str, pick: Pick, row: Mapping[str, Any], small: Small
) -> Thumbnail:
    outputs = [head.output for head in summary.heads if row.get(head.output) is not None]
    return Thumbnail(
        key=str(row[columns.KEY]),
        shard=shard,
        row=pick.row,
        score=row[summary.gallery_head],
        scores={output: row[output] for output in outputs},
        caption=next((row[name] for name in CAPTIONS if isinstance(row.get(name), str)), ""),
        width=row.get(columns.WIDTH),
        height=row.get(columns.HEIGHT),
        jpeg=small.jpeg,
        size=small.size,
    )


def _buckets(
    summary: Summary, picks: Sequence[Pick], thumbnails: Mapping[Pick, Thumbnail]
) -> tuple[Bucket, ...]:
    """Highest first, and so within each."""
    edges, last = summary.bucket_edges, len(summary.bucket_counts) - 1
    extremes = next(head.stats for head in summary.heads if head.output == summary.gallery_head)
    return tuple(
        Bucket(
            None if at == 0 and extremes.low < edges[0] else edges[at],
            None if at == last and extremes.high >= edges[-1] else edges[at + 1],
            summary.bucket_counts[at],
            sorted(
                (thumbnails[pick] for pick in picks if pick.bucket == at and pick in thumbnails),
                key=lambda thumbnail: -thumbnail.score,
            ),
        )
        for at in range(last, -1, -1)
    )


def _absent(reasons: Counter[str], wanted: int) -> tuple[str, ...]:
    told = [f"{count} of {wanted} images: {text}" for text, count in reasons.most_common()]
    if len(told) > MOST_REASONS:
        rest = sum(reasons.values()) - sum(n for _, n in reasons.most_common(MOST_REASONS))
        told = [*told[:MOST_REASONS], f"{rest} of {wanted} images: for other reasons"]
    return tuple(told)


def _reason(error: Exception) -> str:
    """A sentence; texts of Pillow's own errors hold memory addresses and are not told."""
    if isinstance(error, AestheticError):
        return error.message
    return f"the image cannot be decoded any more ({type(error).__name__})"
