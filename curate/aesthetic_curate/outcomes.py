"""What became of a sample: scores, or a status and the reason."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import ImageError, ScoreResult
from aesthetic_curate.samples import Sample, Status


@dataclass(frozen=True)
class Outcome:
    """One row in the making. `scores` are by head name; sizes are in pixels of the file."""

    sample: Sample
    status: Status
    error: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    embedding: NDArray[np.float32] | None = None
    width: int | None = None
    height: int | None = None


def outcome_of(sample: Sample, result: ScoreResult | None) -> Outcome:
    """The outcome of a sample that was asked about, or (None) could not be."""
    if result is None or sample.image is None:
        return Outcome(sample, sample.status, sample.error)
    width, height = image_size(sample.image)
    if result.error is None:
        return Outcome(sample, "ok", "", result.scores, result.embedding, width, height)
    if isinstance(result.error, ImageError):
        reason = f"{result.error.message} [{result.error.code}]"
        return Outcome(sample, "bad_image", reason, width=width, height=height)
    return Outcome(sample, "refused", result.error.message, width=width, height=height)


def image_size(data: bytes) -> tuple[int | None, int | None]:
    """Width and height of an encoded image, from its header; (None, None) where it has none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except Exception:  # a dozen types on broken headers; why it is bad is the scorer's to say
        return None, None
