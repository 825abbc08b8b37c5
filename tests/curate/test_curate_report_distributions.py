"""Histograms, percentiles and thresholds of a report: of all scores, of merged histograms."""

from __future__ import annotations

import numpy as np
import pytest

from aesthetic_curate.report.distributions import (
    MOST_BARS,
    MOST_BUCKETS,
    MOST_THRESHOLDS,
    PERCENTS,
    ExactScores,
    MergedScores,
    bucket_counts,
    bucket_edges,
    decimals,
    describe,
    round_step,
)
from aesthetic_curate.stats import ScoreStats

NORMAL = np.random.default_rng(0).normal(5.5, 0.8, 20_000).astype(np.float32)
CASES = {
    "normal": NORMAL,
    "narrow": (NORMAL - 5.5) / 1000 + 0.02,
    "outliers": np.concatenate([NORMAL, [-400, 3000]]),
    "negative": NORMAL - 9,
    "constant": np.full(50, 4.25),
    "one": np.array([6.0]),
    "two": np.array([1.0, 9.0]),
    "on the edges": np.arange(0, 100) / 10,
}


def stats_of(scores: np.ndarray) -> ScoreStats:
    stats = ScoreStats()
    stats.add(scores.astype(np.float32))
    return stats


@pytest.mark.parametrize("scores", CASES.values(), ids=CASES)
def test_every_image_is_counted_once(scores: np.ndarray) -> None:
    exact, merged = ExactScores(scores.astype(np.float32)), MergedScores(stats_of(scores))
    for known in (exact, merged):
        head = describe("name", "output", stats_of(scores), known)
        assert sum(head.bars.counts) + head.bars.below + head.bars.above == len(scores)
        assert len(head.bars.edges) == len(head.bars.counts) + 1
        assert len(head.bars.counts) <= 2 * MOST_BARS
        assert len(head.thresholds) <= MOST_THRESHOLDS + 2
        edges = bucket_edges(known)
        assert 1 <= len(edges) - 1 <= MOST_BUCKETS
        assert sum(bucket_counts(known, edges)) == len(scores)


@pytest.mark.parametrize("scores", CASES.values(), ids=CASES)
def test_thresholds_keep_what_a_filter_keeps(scores: np.ndarray) -> None:
    scores = scores.astype(np.float32)
    for known in (ExactScores(scores), MergedScores(stats_of(scores))):
        thresholds = describe("name", "output", stats_of(scores), known).thresholds
        kept = [int((scores.astype(np.float64) >= one.score).sum()) for one in thresholds]
        assert [one.kept for one in thresholds] == kept
        assert kept[0] >= 0.99 * len(scores)


def test_percentiles_are_numpys_and_those_of_histograms_are_near() -> None:
    expected = np.percentile(NORMAL, PERCENTS)
    exact = describe("name", "output", stats_of(NORMAL), ExactScores(NORMAL))
    assert [score for _, score in exact.percentiles] == pytest.approx(expected.tolist())
    assert exact.exact
    merged = describe("name", "output", stats_of(NORMAL), MergedScores(stats_of(NORMAL)))
    assert [score for _, score in merged.percentiles] == pytest.approx(expected.tolist(), abs=0.02)
    assert not merged.exact


def test_scores_that_are_not_finite_are_left_out() -> None:
    exact = ExactScores(np.array([np.nan, 2, np.inf, 1], np.float32))
    assert (exact.count, exact.low, exact.high) == (2, 1.0, 2.0)


def test_no_scores_have_no_distribution() -> None:
    head = describe("name", "output", ScoreStats(), ExactScores(np.empty(0, np.float32)))
    assert (head.bars.counts, head.percentiles, head.thresholds) == ((), (), ())
    assert bucket_edges(MergedScores(ScoreStats())) == ()
    assert bucket_counts(MergedScores(ScoreStats()), ()) == ()


def test_buckets_are_half_a_point_wide_where_that_fits() -> None:
    edges = bucket_edges(ExactScores(NORMAL))
    assert np.diff(edges) == pytest.approx(0.5)
    assert edges[0] <= NORMAL.min() < edges[1] and edges[-2] <= NORMAL.max() < edges[-1]
    narrow = bucket_edges(ExactScores(CASES["narrow"].astype(np.float32)))
    assert len(narrow) > 4 and narrow[1] - narrow[0] < 0.01


def test_outliers_do_not_widen_the_buckets() -> None:
    edges = bucket_edges(ExactScores(CASES["outliers"].astype(np.float32)))
    assert edges[1] - edges[0] == pytest.approx(0.5)
    counts = bucket_counts(ExactScores(CASES["outliers"].astype(np.float32)), edges)
    assert counts[0] == (CASES["outliers"] < edges[1]).sum()
    assert counts[-1] == (CASES["outliers"] >= edges[-2]).sum()


def test_few_images_get_few_bars() -> None:
    few = describe("name", "output", stats_of(NORMAL[:100]), ExactScores(NORMAL[:100]))
    assert len(few.bars.counts) <= 25


@pytest.mark.parametrize(
    ("span", "most", "finest", "step"),
    [(7, 20, 0, 0.5), (6, 60, 0, 0.1), (1, 1, 0, 1), (0.013, 10, 0, 0.002), (0.3, 60, 0.1, 0.1)],
)
def test_steps_are_round(span: float, most: int, finest: float, step: float) -> None:
    assert round_step(span, most, finest) == step


def test_a_step_of_nothing_is_a_step() -> None:
    assert round_step(0, 10) > 0
    assert round_step(0, 10, 0.1) == 0.1


@pytest.mark.parametrize(("step", "digits"), [(0.5, 1), (0.1, 1), (0.02, 2), (1, 0), (50, 0)])
def test_digits_follow_from_the_step(step: float, digits: int) -> None:
    assert decimals(step) == digits


def test_the_highest_scores_keep_narrow_buckets() -> None:
    """A wide range does not widen the buckets: its ends are put together instead."""
    wide = np.random.default_rng(1).normal(5.3, 1.0, 500_000).astype(np.float32)
    edges = bucket_edges(ExactScores(wide))
    assert np.diff(edges) == pytest.approx(0.5)
    assert edges[-1] > wide.max() - 0.5
    assert edges == bucket_edges(MergedScores(stats_of(wide)))
