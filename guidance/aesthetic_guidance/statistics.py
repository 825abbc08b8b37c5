"""Rank correlation, errors and effect sizes, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 10_000  # of a bootstrap; its interval's ends then vary by about 1% of its width
CONFIDENCE = 0.95
_RESAMPLED_VALUES = 1 << 22  # drawn at a time: 32 MB


def ranks(values: Array) -> Array:
    """Ranks (n,) from 1 on; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Array = (last - (counts - 1) / 2)[inverse.reshape(-1)]
    return shared


def spearman(one: Array, other: Array) -> float:
    """The rank correlation of two (n,); NaN where one of them is constant.

    Spearman, The proof and measurement of association between two things, 1904.
    """
    a, b = ranks(one), ranks(other)
    a, b = a - a.mean(), b - b.mean()
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else float("nan")


def rmse(predicted: Array, actual: Array) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean((predicted - actual) ** 2)))


def r_squared(predicted: Array, actual: Array) -> float:
    """1 - squared error / squared deviation from the mean; below 0: worse than the mean."""
    deviation = actual - actual.mean()
    return float(1 - np.sum((predicted - actual) ** 2) / (deviation @ deviation))


@dataclass(frozen=True)
class Comparison:
    """How two samples of scores, a and b, differ. Positive: b is higher.

    `cohens_d` is the difference of means in pooled standard deviations (Cohen, Statistical Power
    Analysis, 1988). `auc` is the chance that a score of b is above one of a, ties half (Mann and
    Whitney, 1947), `cliffs_delta` 2 auc - 1 (Cliff, 1993). `low` and `high` bound the difference of
    means with 95% confidence: percentiles of a bootstrap (Efron, 1979) that draws both samples.
    """

    counts: tuple[int, int]
    means: tuple[float, float]
    deviations: tuple[float, float]
    difference: float
    low: float
    high: float
    cohens_d: float
    cliffs_delta: float
    auc: float


def compare(a: Array, b: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> Comparison:
    """Two samples (n,), (m,) of at least two scores each. Raises ValueError for fewer."""
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a comparison needs two scores a side, got {len(a)} and {len(b)}")
    variances = float(a.var(ddof=1)), float(b.var(ddof=1))
    freedom = len(a) + len(b) - 2
    pooled = np.sqrt(((len(a) - 1) * variances[0] + (len(b) - 1) * variances[1]) / freedom)
    difference = float(b.mean() - a.mean())
    ranked = ranks(np.concatenate([a, b]))[len(a) :]
    auc = float((ranked.sum() - len(b) * (len(b) + 1) / 2) / (len(a) * len(b)))
    random = np.random.default_rng(seed)
    drawn = _resampled_means(b, random, resamples) - _resampled_means(a, random, resamples)
    low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Comparison(
        (len(a), len(b)),
        (float(a.mean()), float(b.mean())),
        (float(np.sqrt(variances[0])), float(np.sqrt(variances[1]))),
        difference,
        float(low),
        float(high),
        float(difference / pooled) if pooled > 0 else float("nan"),
        2 * auc - 1,
        auc,
    )


def _resampled_means(values: Array, random: np.random.Generator, resamples: int) -> Array:
    """Means (resamples,) of as many values, drawn with replacement."""
    means = np.empty(resamples)
    step = max(1, _RESAMPLED_VALUES // len(values))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        draws = random.integers(0, len(values), (count, len(values)))
        means[start : start + count] = values[draws].mean(axis=1)
    return means
