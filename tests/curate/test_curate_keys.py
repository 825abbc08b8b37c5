"""Rows found by key: whatever one table writes keys like, and however often they come."""

from __future__ import annotations

import pyarrow as pa
import pytest

from aesthetic_curate.keys import match_keys

KEYS = ["00000", "00001", "00002"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([2, 1, 0]), [2, 1, 0]),
        (pa.array([2, 1, 0], pa.uint8()), [2, 1, 0]),
        (pa.array([2.0, None, 0.0]), [2, -1, 0]),
        (pa.array([2.0, float("nan"), 0.0]), [2, -1, 0]),
        (pa.array(["00001", "00000", None]), [1, 0, -1]),
        (pa.array(["00001", "00001", "00000"]), [2, 0, -1]),
        (pa.array(["2", "1", "000"]), [2, 1, 0]),
        (pa.array(["d/00002", "e/00001", "d/00000"]), [2, 1, 0]),
        (pa.array(["d/00002", "e/00001", "00000"]), [2, -1, -1]),
        (pa.array(["00001", "00000", None]).dictionary_encode(), [1, 0, -1]),
        (pa.array([1, 0, 1]).dictionary_encode(), [1, 0, -1]),
        (pa.array([0.5, 1.0, 2.0]), [-1, -1, -1]),
        (pa.array([b"00000"] * 3), [-1, -1, -1]),
        (pa.array([], pa.string()), [-1, -1, -1]),
        (pa.nulls(3), [-1, -1, -1]),
    ],
)
def test_keys_find_their_rows_and_rows_their_keys(column: pa.Array, expected: list[int]) -> None:
    keys, other = pa.chunked_array([KEYS]), pa.chunked_array([column])
    assert match_keys(keys, other).tolist() == expected
    back = [expected.index(row) if row in expected else -1 for row in range(len(column))]
    assert match_keys(other, keys).tolist() == back


def test_zeros_are_passed_over_before_numbers_alone() -> None:
    keys = pa.chunked_array([["00x", "007", "a/07", None]])
    assert match_keys(keys, pa.chunked_array([["x", "7"]])).tolist() == [-1, 1, -1, -1]


def test_repeated_keys_match_in_their_order() -> None:
    keys = pa.chunked_array([["a", "a"], ["a", "c", None]])
    column = pa.chunked_array([["a", None, "b"], ["a", "c"]])
    assert match_keys(keys, column).tolist() == [0, 3, -1, 4, -1]
    assert match_keys(keys, column, shared=True).tolist() == [0, 3, 3, 4, -1]
