"""Data sets as img2dataset writes them, small, deterministic, with bad samples among the good."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from generated_images import encoded, texture

BAD_EVERY = 17  # samples; one in so many has an image that cannot be scored


def photo(seed: int, width: int = 96, height: int = 64) -> bytes:
    """A small JPEG with a texture of its own."""
    return encoded(Image.fromarray(texture(width, height, 3, seed)), "JPEG", quality=85)


def jpegs(count: int) -> list[bytes]:
    """As many different small JPEG files. Big data sets repeat a few: encoding them takes time."""
    return [photo(seed, 64 + seed % 40, 48 + seed % 32) for seed in range(count)]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of (name, bytes), in their order, the same for every call."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
    return path


def img2dataset(
    folder: Path,
    *,
    shards: int = 2,
    samples: int = 20,
    images: Sequence[bytes] | None = None,
    bad_every: int = BAD_EVERY,
) -> list[Path]:
    """`NNNNN.tar` (jpg, json, txt a sample), `.parquet` and `_stats.json`; the tars.

    Every `bad_every`th sample holds a cut JPEG. The last sample of each shard failed to download:
    it is in the parquet, and not in the tar.
    """
    images = images or jpegs(16)
    folder.mkdir(parents=True, exist_ok=True)
    tars = []
    for shard in range(shards):
        rows = list(_rows(shard, samples))
        stem = folder / f"{shard:05d}"
        tars.append(write_tar(stem.with_suffix(".tar"), _members(rows[:-1], images, bad_every)))
        pq.write_table(pa.Table.from_pylist(rows), stem.with_suffix(".parquet"))
        stats = {"count": samples, "successes": samples - 1, "failed_to_download": 1}
        Path(f"{stem}_stats.json").write_text(json.dumps(stats))
    return tars


def unit_embeddings(count: int, seed: int = 0) -> np.ndarray:
    """float32 (count, 768), unit length."""
    vectors = np.random.default_rng(seed).standard_normal((count, 768)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _rows(shard: int, samples: int) -> Iterator[dict[str, object]]:
    for index in range(samples):
        failed = index == samples - 1
        yield {
            "url": f"http://images.test/{shard}/{index}.jpg",
            "caption": f"sample {index} of {shard}",
            "key": f"{shard:05d}{index:04d}",
            "status": "failed_to_download" if failed else "success",
            "error_message": "HTTP 404" if failed else None,
            "width": None if failed else 96,
            "height": None if failed else 64,
        }


def _members(
    rows: Sequence[dict[str, object]], images: Sequence[bytes], bad_every: int
) -> Iterator[tuple[str, bytes]]:
    for index, row in enumerate(rows):
        image = images[index % len(images)]
        bad = bad_every and index % bad_every == bad_every - 1
        yield f"{row['key']}.jpg", image[: len(image) // 3] if bad else image
        yield f"{row['key']}.json", json.dumps(row).encode()
        yield f"{row['key']}.txt", str(row["caption"]).encode()
