"""The results as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def lines(record: dict[str, Any]) -> Iterator[str]:
    """What was measured, and by name what was not."""
    name = record["machine"].get("gpu", record["machine"]["device"])
    yield f"{name}; torch {record['versions'].get('torch')}; images: {record['images']}"
    if record["smoke"]:
        yield "a smoke run with a tiny tower: none of these figures mean anything"
    best = record["matrix"].get("best_tflops")
    if best:
        yield (
            f"matrix products alone: {best:.1f} TFLOP/s in fp16, that is "
            f"{record['limit_images_per_s']:.0f} images/s at most"
        )
    for engine, result in record["engines"].items():
        for word in ("skipped", "failed"):
            if word in result:
                yield f"{engine}: {word}, {result[word]}"
        for row in result.get("batches", ()):
            yield f"{engine}  batch {row['batch']:>3}  {_figures(row)}"
        if "parity" in result:
            found = result["parity"]
            worst = max(found["score_max_difference"].values())
            yield f"{engine}  cosine >= {found['cosine_min']:.6f}, score within {worst:.1e} of fp32"


def _figures(row: dict[str, Any]) -> str:
    for word in ("skipped", "failed"):
        if word in row:
            return f"{word}, {row[word]}"
    share = row.get("fraction_of_limit")
    of_limit = "" if share is None else f"  {share:6.1%} of the limit"
    return (
        f"{row['images_per_s']:9.1f} images/s{of_limit}"
        f"  p50 {row['p50_ms']:8.2f} ms  p99 {row['p99_ms']:8.2f} ms"
    )
