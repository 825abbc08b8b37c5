"""Scored folders as `aesthetic curate score` writes them, made from tars and given scores."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aesthetic_client.contract import DEFAULT_HEAD, HEADS, SEEDED_WEIGHTS
from aesthetic_curate.columns import renamed_metadata, scored_schema
from aesthetic_curate.opening import open_source
from aesthetic_curate.options import InputOptions
from aesthetic_curate.shards import Shard
from aesthetic_curate.stats import ScoreStats
from aesthetic_curate.storage import identity

SCORE = DEFAULT_HEAD.output
FINGERPRINT = "0123456789abcdef" * 4
IMAGES = ("jpg", "jpeg", "png", "webp")

Scores = Sequence[float | None]  # a score a sample, in the tar's order; None: a bad image


def write_results(
    folder: Path,
    tars: Sequence[Path],
    scores: Sequence[Mapping[str, Scores] | Scores] | None = None,
    *,
    fingerprint: str = FINGERPRINT,
    embeddings: bool = False,
    seeded: bool = False,
    config: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Score tars as if a server had given `scores`; the shards' stats.

    `scores` has an item a tar: the default head's scores, or scores by output name. Left out, they
    are drawn from a normal distribution, and every 17th sample has none.
    """
    return [
        write_shard(
            folder,
            tar,
            scores[index] if scores is not None else drawn(len(grouped(tar)), index),
            fingerprint=fingerprint,
            embeddings=embeddings,
            seeded=seeded,
            config=config,
        )
        for index, tar in enumerate(tars)
    ]


def write_shard(
    folder: Path,
    tar: Path,
    scores: Mapping[str, Scores] | Scores,
    *,
    name: str | None = None,
    fingerprint: str = FINGERPRINT,
    embeddings: bool = False,
    seeded: bool = False,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One scored shard: `NAME.parquet` and, last, `NAME_stats.json`; the stats."""
    by_output = scores if isinstance(scores, Mapping) else {SCORE: scores}
    samples = grouped(tar)
    stem = folder / (name or tar.name.removesuffix(".tar"))
    stem.parent.mkdir(parents=True, exist_ok=True)
    table = _table(samples, by_output, "float32" if embeddings else None)
    pq.write_table(table, f"{stem}.parquet")
    beside = tar.with_suffix(".parquet")
    shard = {
        "name": str(stem.relative_to(folder)),
        "kind": "tar",
        "url": str(tar),
        "start": 0,
        "stop": None,
        "metadata_url": str(beside) if beside.exists() else None,
    }
    stats = _stats(table, by_output, shard, tar) | {
        "fingerprint": fingerprint,
        "config": dict(config or {"heads": list(by_output)}),
        "options": {},
        "provenance": {"clip_image": {"weights": SEEDED_WEIGHTS if seeded else "openai"}},
    }
    Path(f"{stem}_stats.json").write_text(json.dumps(stats))
    return stats


def write_source(
    folder: Path, shard: Shard, scores: Scores, options: InputOptions | None = None
) -> None:
    """One scored shard of any kind, read by its own reader; a score a sample."""
    options = options or InputOptions()
    schema = scored_schema([SCORE], None)
    with open_source(shard, options) as source:
        chunks = list(source.chunks())
    names = [(sample.key, sample.name) for chunk in chunks for sample in chunk.samples]
    rows = [
        {
            "key": key,
            SCORE: score,
            "status": "ok" if score is not None else "bad_image",
            "image": image,
        }
        for (key, image), score in zip(names, scores, strict=True)
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    if chunks[0].metadata is not None:
        metadata = pa.concat_tables([chunk.metadata for chunk in chunks])
        metadata = renamed_metadata(metadata, schema.names)
        for name in metadata.column_names:
            table = table.append_column(name, metadata[name])
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / f"{shard.name}.parquet")
    stats = _stats(table, {SCORE: scores}, asdict(shard), Path(shard.url)) | {
        "fingerprint": FINGERPRINT,
        "config": {},
        "options": asdict(options),
        "provenance": {"clip_image": {"weights": "openai"}},
    }
    (folder / f"{shard.name}_stats.json").write_text(json.dumps(stats))


def drawn(count: int, seed: int, *, bad_every: int = 17) -> list[float | None]:
    """Scores around 5.5 with a deviation of 0.8; every `bad_every`th is None."""
    values = np.random.default_rng(seed).normal(5.5, 0.8, count).astype(np.float32)
    return [
        None if bad_every and index % bad_every == bad_every - 1 else float(value)
        for index, value in enumerate(values)
    ]


def grouped(tar: Path) -> list[tuple[str, dict[str, bytes]]]:
    """(key, files by extension) of each sample in the order of first members.

    A repeated extension of a key begins a further sample of that key.
    """
    samples: list[tuple[str, dict[str, bytes]]] = []
    with tarfile.open(tar) as opened:
        for member in opened:
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            file = opened.extractfile(member)
            assert file is not None
            data = file.read()
            same = (files for known, files in samples if known == key)
            place = next((files for files in same if extension not in files), None)
            if place is None:
                place = {}
                samples.append((key, place))
            place[extension] = data
    return samples


def _table(
    samples: Sequence[tuple[str, Mapping[str, bytes]]],
    scores: Mapping[str, Scores],
    embedding: str | None,
) -> pa.Table:
    """Our columns, then the fields of the json members."""
    schema = scored_schema(list(scores), embedding)
    first = next(iter(scores.values()))
    assert len(first) == len(samples)
    rows = []
    for index, (key, files) in enumerate(samples):
        ok = first[index] is not None
        row: dict[str, Any] = {"key": key, "status": "ok" if ok else "bad_image"}
        row |= {name: values[index] for name, values in scores.items()}
        row["error"] = None if ok else "the file is cut off"
        row["image"] = next((name for name in files if name in IMAGES), None)
        row |= {"width": 96 if ok else None, "height": 64 if ok else None}
        if embedding:
            vector = np.random.default_rng(index).standard_normal(768)
            length = np.linalg.norm(vector) if ok else np.nan
            row["embedding"] = (vector / length).astype(embedding)
        rows.append(row)
    ours = pa.Table.from_pylist(rows, schema=schema)
    fields = [json.loads(files.get("json", b"{}")) for _, files in samples]
    if not any(fields):
        return ours
    names = list(dict.fromkeys(name for row in fields for name in row))
    metadata = pa.table({name: [row.get(name) for row in fields] for name in names})
    metadata = renamed_metadata(metadata, schema.names)
    for name in metadata.column_names:
        ours = ours.append_column(name, metadata[name])
    return ours


def _stats(
    table: pa.Table, scores: Mapping[str, Scores], shard: Mapping[str, Any], tar: Path
) -> dict[str, Any]:
    statuses = table["status"].to_pylist()
    return {
        "format": 1,
        "shard": dict(shard),
        "input": identity(str(tar)),
        "samples": table.num_rows,
        "statuses": {name: statuses.count(name) for name in dict.fromkeys(statuses)},
        "notes": {},
        "kept": None,
        "scores": {name: _score_stats(name, values) for name, values in scores.items()},
        "seconds": 1.0,
        "finished": "2026-11-20T12:00:00+00:00",
        "tar": False,
    }


def _score_stats(output: str, values: Scores) -> dict[str, Any]:
    stats = ScoreStats()
    stats.add(np.array([np.nan if value is None else value for value in values], np.float32))
    head = next((head.name for head in HEADS if head.output == output), output)
    return {"head": head, **stats.to_json()}
