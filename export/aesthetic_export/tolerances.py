"""How far an exported model may be from its reference, and why so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aesthetic_client import contract
from aesthetic_export.measures import FloatArray

Score = Callable[[FloatArray], Sequence[FloatArray]]  # (n, 768) -> one (n, 1) a head, in order


@dataclass(frozen=True)
class Tolerance:
    """How far an exported model may be from its reference. None: not compared.

    `score` is the largest |score difference|, in points of the scale; `heads` names those heads for
    which another figure holds.
    """

    score: float
    cosine: float | None = None  # every embedding's cosine must be above it
    heads: Mapping[str, float] = field(default_factory=dict)

    def of(self, head: str) -> float:
        return self.heads.get(head, self.score)


# fp32 against fp32 gives cosines of 1 - 1e-12 and scores within 1e-5 on a whole ViT-L/14.
CLIP_IMAGE_FP32 = Tolerance(score=1e-3, cosine=0.999999)
# Of the default head; see `tower_tolerance` for the others.
FP16_SCORE = 0.01
FP16_COSINE = 0.9999
# Scores of photographs spread by about a point, and callers' thresholds lie halves of it apart.
# Twice the worst head's drift on the stress tower of published ranges, as benchmarks/precision.py
# measures it: a profile further off is another predictor, whatever its speed.
BF16_SCORE = 0.05
BF16_COSINE = 0.999
INT8_SCORE = 0.2
INT8_COSINE = 0.99
# What the published golden scores hold an fp32 implementation to.
AESTHETIC_HEADS_FP32 = Tolerance(score=2e-5)

_LIMITS = {
    "fp16": (FP16_SCORE, FP16_COSINE),
    "bf16": (BF16_SCORE, BF16_COSINE),
    "int8": (INT8_SCORE, INT8_COSINE),
}


def tower_tolerance(precision: str, score: Score, embeddings: FloatArray) -> Tolerance:
    """Of a tower in `precision`: for the default head, for the others by how much they magnify.

    One and the same error of an embedding moves a score by up to the length of the head's gradient:
    18 for the default head, 374 for `sac_public...`, whose scale is no finer for it. Lengths are
    taken from differences along each of the 768 axes, at the unit `embeddings` (n, 768).
    """
    if precision == contract.DEFAULT_PROFILE.precision:
        return CLIP_IMAGE_FP32
    largest, cosine = _LIMITS[precision]
    lengths = _gradient_lengths(score, embeddings)
    allowed = largest * lengths / lengths[contract.HEADS.index(contract.DEFAULT_HEAD)]
    heads = {head.name: float(value) for head, value in zip(contract.HEADS, allowed, strict=True)}
    return Tolerance(largest, cosine, heads)


def _gradient_lengths(score: Score, embeddings: FloatArray) -> npt.NDArray[np.float64]:
    """The longest of each head's gradients at the unit `embeddings`."""
    step = 0.05  # fp32 scores are exact to about 1e-6; heads are linear or nearly so on this scale
    axes = step * np.eye(contract.EMBEDDING_DIM, dtype=np.float32)
    lengths = np.zeros(len(contract.HEADS))
    for embedding in embeddings:
        there, here = score(embedding + axes), score(embedding - axes)
        gradients = [
            (a - b).astype(np.float64) / (2 * step) for a, b in zip(there, here, strict=True)
        ]
        lengths = np.maximum(lengths, [np.linalg.norm(gradient) for gradient in gradients])
    return lengths
