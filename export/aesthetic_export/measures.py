"""How far two arrays agree, and how far the rows of one are apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def rank_correlation(a: FloatArray, b: FloatArray) -> float | None:
    """Spearman's: of the ranks, equal values at the mean of theirs. None where all are equal."""
    ranks = [_ranks(values) - (len(values) - 1) / 2 for values in (a, b)]
    lengths = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    return float(ranks[0] @ ranks[1]) / lengths if lengths else None


def _ranks(values: FloatArray) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (ends - (counts + 1) / 2)[inverse.ravel()]
    return ranks


def cosines(a: FloatArray, b: FloatArray) -> npt.NDArray[np.float64]:
    """Row by row, in float64. (n, 768), (n, 768) -> (n,)"""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    cosines: npt.NDArray[np.float64] = np.sum(a64 * b64, axis=1) / lengths
    return cosines


def distinct(embeddings: FloatArray, apart: float) -> list[int]:
    """The rows whose 1 - cosine to each row kept before them is more than `apart`."""
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    kept: list[int] = []
    for index, row in enumerate(unit):
        if not kept or 1.0 - float(np.max(unit[kept] @ row)) > apart:
            kept.append(index)
    return kept


def spread_of(embeddings: FloatArray) -> float:
    """The smallest 1 - cosine between two rows."""
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1.0)
    return float(1.0 - np.max(cosines))
