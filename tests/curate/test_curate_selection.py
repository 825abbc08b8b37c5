"""Which rows are kept: bounds, several conditions, the best share, exactly."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from curate_datasets import img2dataset
from curate_results import SCORE, write_results

from aesthetic_client.contract import HEADS
from aesthetic_client.errors import InputError
from aesthetic_curate.results import Results
from aesthetic_curate.selection import (
    Condition,
    Criteria,
    TopShare,
    count_kept,
    parse_condition,
    parse_share,
    select,
)
from aesthetic_curate.stats import ScoreStats

FURTHER = HEADS[1]


class Made(Results):
    """Results whose scores are at hand, by shard."""

    def __init__(self, *shards: list[float | None], further: list[list[float]] | None = None):
        columns = {SCORE: shards} | ({FURTHER.output: further} if further else {})
        self._arrays = {
            name: [np.array([np.nan if v is None else v for v in one], np.float32) for one in many]
            for name, many in columns.items()
        }
        self.shards = [SimpleNamespace(samples=len(one), index=n) for n, one in enumerate(shards)]
        self.folder = SimpleNamespace(url="SCORED")

    @property
    def heads(self) -> dict[str, str]:
        return {head.output: head.name for head in HEADS if head.output in self._arrays}

    @property
    def score_stats(self) -> dict[str, ScoreStats]:  # type: ignore[override]
        found = {}
        for name, arrays in self._arrays.items():
            found[name] = ScoreStats()
            found[name].add(np.concatenate(arrays))
        return found

    def scores(self, shard, output):  # type: ignore[no-untyped-def, override]
        return self._arrays[output][shard.index]


def kept(results: Results, *conditions: Condition, top: TopShare | None = None) -> list[list[int]]:
    return [rows.tolist() for rows in select(results, Criteria(conditions, top)).rows]


def test_bounds_are_kept_and_missing_scores_are_not() -> None:
    results = Made([5.5, 5.4, None, math.nan], [], [6.0, 7.0])
    assert kept(results, Condition(SCORE, low=5.5)) == [[0], [], [0, 1]]
    assert kept(results, Condition(SCORE, low=5.5, high=6.0)) == [[0], [], [0]]
    assert kept(results, Condition(SCORE, high=10.0)) == [[0, 1], [], [0, 1]]


def test_a_bound_that_no_float32_equals_keeps_the_score_that_prints_so() -> None:
    # float32(5.1) is below 5.1; a user who asks for 5.1 means it.
    assert kept(Made([5.1, 5.0999994, 5.3]), Condition(SCORE, low=5.1)) == [[0, 2]]
    assert kept(Made([5.3]), Condition(SCORE, high=5.3)) == [[0]]


def test_all_conditions_must_hold() -> None:
    results = Made([5.0, 6.0, 7.0], further=[[4.0, 3.0, 5.0]])
    both = (Condition(SCORE, low=6.0), Condition(FURTHER.output, low=4.0))
    assert kept(results, *both) == [[2]]
    assert kept(results, both[1], top=TopShare(SCORE, "34")) == [[2]]  # two best, one holds


def test_the_best_share_is_exact_with_ties() -> None:
    random = np.random.default_rng(7)
    for trial in range(60):
        shards = [
            [None if random.random() < 0.2 else float(random.integers(0, 6)) for _ in range(size)]
            for size in random.integers(0, 40, 4)
        ]
        percent = random.choice(["0.1", "3", "10", "33.3", "50", "99.9", "100"])
        flat = [(shard, row, v) for shard, one in enumerate(shards) for row, v in enumerate(one)]
        scored = [item for item in flat if item[2] is not None]
        wanted = math.ceil(Fraction(percent) * len(scored) / 100)
        best = sorted(scored, key=lambda item: -item[2])[:wanted]  # stable: first come of equals
        found = kept(Made(*shards), top=TopShare(SCORE, percent))
        pairs = [(shard, row) for shard, rows in enumerate(found) for row in rows]
        assert pairs == sorted((shard, row) for shard, row, _ in best), trial


def test_a_share_is_counted_without_rounding_errors() -> None:
    assert TopShare(SCORE, "10").count(1000) == 100
    assert TopShare(SCORE, "0.1").count(3000) == 3  # 3000 * 0.1 / 100 is above 3 in floats
    assert TopShare(SCORE, "0.1").count(3001) == 4
    assert TopShare(SCORE, "7").count(100) == 7
    assert TopShare(SCORE, "100").count(0) == 0


def test_nothing_scored_keeps_nothing() -> None:
    assert kept(Made([None, None], []), top=TopShare(SCORE, "50")) == [[], []]


def test_conditions_as_typed() -> None:
    results = Made([1.0], further=[[1.0]])
    assert parse_condition(results, "5.5", "min", SCORE) == Condition(SCORE, low=5.5)
    assert parse_condition(results, "5.5", "max", FURTHER.name) == Condition(
        FURTHER.output, high=5.5
    )
    named = Condition(FURTHER.output, low=-1.0)
    assert parse_condition(results, f"{FURTHER.name}=-1", "min", SCORE) == named
    assert parse_condition(results, f"{FURTHER.output}=-1", "min", SCORE) == named
    assert parse_share(results, "0.10", SCORE) == TopShare(SCORE, "0.10")
    for text in ("high", "nan", "inf", "", f"{SCORE}="):
        with pytest.raises(InputError, match="--min takes a number or HEAD=NUMBER"):
            parse_condition(results, text, "min", SCORE)
    for text in ("0", "-1", "100.1", "nan", "ten", ""):
        with pytest.raises(InputError, match="--top-percent takes a number above 0 and up to 100"):
            parse_share(results, text, SCORE)
    with pytest.raises(InputError, match="no scores of 'beauty'"):
        parse_condition(results, "beauty=5", "min", SCORE)


def test_criteria_as_json() -> None:
    criteria = Criteria((Condition(SCORE, low=5.5),), TopShare(SCORE, "10"))
    assert criteria.to_json() == {
        "conditions": [{"output": SCORE, "low": 5.5, "high": None}],
        "top": {"output": SCORE, "percent": "10"},
    }


def test_selecting_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="no criteria"):
        select(Made([1.0]), Criteria())


def test_counts_of_thresholds() -> None:
    results = Made([5.1, 5.5, None, 4.74], [6.3, 5.49])
    assert list(count_kept(results, SCORE)) == [(4.5, 5), (5.0, 4), (5.5, 2), (6.0, 1)]
    assert list(count_kept(Made([None]), SCORE)) == []


def test_digests_tell_selections_apart() -> None:
    one = select(Made([1.0, 2.0], [3.0]), Criteria((Condition(SCORE, low=2.0),)))
    other = select(Made([1.0, 2.0], [3.0]), Criteria((Condition(SCORE, high=3.0),)))
    moved = select(Made([1.0], [2.0, 3.0]), Criteria((Condition(SCORE, low=2.0),)))
    assert len({one.digest, other.digest, moved.digest}) == 3
    assert (
        one.digest == select(Made([0.0, 2.0], [9.0]), Criteria((Condition(SCORE, low=2.0),))).digest
    )


def test_memory_is_four_bytes_a_row() -> None:
    rows, shards = 2_000_000, 200
    results = Made(*[[0.0]] * shards)
    block = np.random.default_rng(0).normal(5.5, 0.8, rows // shards).astype(np.float32)
    results._arrays[SCORE] = [block] * shards
    for shard in results.shards:
        shard.samples = len(block)
    tracemalloc.start()
    try:
        selection = select(results, Criteria((), TopShare(SCORE, "10")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert selection.count == rows // 10
    assert peak < 4 * rows + rows + 4 * selection.count + 500_000  # the masks of all scores: rows


def test_scores_of_parquets(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=2, samples=21)
    scores = write_results(tmp_path / "scored", tars)
    results = Results.open(str(tmp_path / "scored"))
    selection = select(results, Criteria((Condition(SCORE, low=5.5),)))
    expected = [
        int((np.nan_to_num(results.scores(shard, SCORE)) >= 5.5).sum()) for shard in results.shards
    ]
    assert [len(rows) for rows in selection.rows] == expected
    assert sum(expected) < scores[0]["samples"] * 2
