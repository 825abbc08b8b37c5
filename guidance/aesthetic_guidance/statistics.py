"""Rank correlation, errors and effect sizes, in numpy."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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


@dataclass(frozen=True)
class PairedComparison:
    """How b differs from a within pairs, such as images of the same prompt and seed.

    `difference` is the mean of b - a, `deviation` its standard deviation over the pairs,
    `cohens_dz` the former in units of the latter (Cohen, 1988). `share_above` is how many pairs
    have the higher score in b, ties half. `low` and `high` bound the mean with 95% confidence:
    percentiles of a bootstrap that draws whole groups of pairs (Davison and Hinkley, Bootstrap
    Methods and their Application, 1997, section 3.8): images of one prompt are no independent
    evidence.
    """

    pairs: int
    groups: int
    difference: float
    deviation: float
    low: float
    high: float
    cohens_dz: float
    share_above: float


def compare_pairs(
    a: Array,
    b: Array,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PairedComparison:
    """Two samples (n,) whose k-th scores belong together; `groups` (n,) says which pairs do.

    Without `groups` each pair stands for itself. Raises ValueError for samples of different sizes,
    and for fewer than two groups.
    """
    if len(a) != len(b) or (groups is not None and len(groups) != len(a)):
        raise ValueError(f"pairs need as many scores a side, got {len(a)} and {len(b)}")
    difference = b - a
    names = range(len(a)) if groups is None else groups
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    if len(places) < 2:
        raise ValueError(f"a comparison needs two groups of pairs, got {len(places)}")
    at = [places[name] for name in names]
    counts = np.bincount(at).astype(np.float64)
    sums = np.bincount(at, weights=difference).astype(np.float64)
    drawn = _resampled_means(sums, np.random.default_rng(seed), resamples, counts)
    low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    mean, deviation = float(difference.mean()), float(difference.std(ddof=1))
    return PairedComparison(
        len(a),
        len(places),
        mean,
        deviation,
        float(low),
        float(high),
        mean / deviation if deviation > 0 else float("nan"),
        float(np.mean((difference > 0) + 0.5 * (difference == 0))),
    )


def _resampled_means(
    values: Array, random: np.random.Generator, resamples: int, counts: Array | None = None
) -> Array:
    """Means (resamples,) of as many values, drawn with replacement.

    With `counts`, each value is a sum over so many items, and the means are the items'.
    """
    means = np.empty(resamples)
    step = max(1, _RESAMPLED_VALUES // len(values))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        draws = random.integers(0, len(values), (count, len(values)))
        drawn = values[draws].sum(axis=1)
        means[start : start + count] = drawn / (
            len(values) if counts is None else counts[draws].sum(axis=1)
        )
    return means
