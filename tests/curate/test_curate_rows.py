"""Rows and statistics of a shard: columns that change from chunk to chunk, numbers that add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aesthetic_curate import rows
from aesthetic_curate.columns import embedding_array, renamed_metadata, scored_schema
from aesthetic_curate.rows import RowWriter
from aesthetic_curate.stats import ScoreStats

SCHEMA = scored_schema(["aesthetic_score"], None)


def some_rows(keys: list[str]) -> pa.Table:
    blank = {"status": "ok", "error": None, "image": "jpg", "width": 96, "height": 64}
    return pa.Table.from_pylist(
        [{"key": key, "aesthetic_score": 5.25, **blank} for key in keys], schema=SCHEMA
    )


def written(path: Path, *chunks: tuple[list[str], pa.Table | None]) -> pa.Table:
    with RowWriter(path, SCHEMA) as writer:
        for keys, metadata in chunks:
            writer.write(some_rows(keys), metadata)
    return pq.read_table(path)


@pytest.fixture(params=[1, 3, 16_384])
def group_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Row groups so small that the schema changes after some were written, and large ones."""
    monkeypatch.setattr(rows, "ROW_GROUP_ROWS", request.param)
    return int(request.param)


def test_metadata_stands_beside_our_columns(tmp_path: Path, group_rows: int) -> None:
    metadata = pa.table({"caption": ["one", "two"], "status": ["success", None]})
    table = written(tmp_path / "x.parquet", (["a", "b"], metadata))
    assert table.column_names == [*SCHEMA.names, "caption", "source_status"]
    assert table["source_status"].to_pylist() == ["success", None]
    assert table["status"].to_pylist() == ["ok", "ok"]


def test_a_column_that_comes_later_is_null_before(tmp_path: Path, group_rows: int) -> None:
    table = written(
        tmp_path / "x.parquet",
        (["a"], None),
        (["b"], pa.table({"seed": [7]})),
        (["c"], pa.table({"caption": ["three"]})),
    )
    assert table["key"].to_pylist() == ["a", "b", "c"]
    assert table["seed"].to_pylist() == [None, 7, None]
    assert table["caption"].to_pylist() == [None, None, "three"]


def test_nulls_and_whole_numbers_widen(tmp_path: Path, group_rows: int) -> None:
    table = written(
        tmp_path / "x.parquet",
        (["a"], pa.table({"value": pa.nulls(1)})),
        (["b"], pa.table({"value": [3]})),
        (["c"], pa.table({"value": [0.5]})),
    )
    assert table["value"].type == pa.float64()
    assert table["value"].to_pylist() == [None, 3.0, 0.5]


def test_what_does_not_go_together_becomes_json(tmp_path: Path, group_rows: int) -> None:
    table = written(
        tmp_path / "x.parquet",
        (["a"], pa.table({"value": [12]})),
        (["b"], pa.table({"value": ["text"]})),
        (["c"], pa.table({"value": [{"x": [1, None]}]})),
        (["d"], pa.table({"value": [None]})),
    )
    assert table["value"].to_pylist() == ["12", "text", '{"x": [1, null]}', None]


def test_large_whole_numbers_are_never_rounded(tmp_path: Path, group_rows: int) -> None:
    """2**53 + 1 has no double: beside one, it is kept as text."""
    large = 2**53 + 1
    table = written(
        tmp_path / "x.parquet",
        (["a"], pa.table({"id": [large]})),
        (["b"], pa.table({"id": [0.5]})),
        (["c"], pa.table({"id": [large]})),
    )
    assert table["id"].to_pylist() == [str(large), "0.5", str(large)]


def test_no_rows_still_make_a_file_of_our_columns(tmp_path: Path) -> None:
    table = written(tmp_path / "x.parquet")
    assert table.num_rows == 0
    assert table.schema.names == SCHEMA.names


def test_a_failure_leaves_no_open_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RowWriter(tmp_path / "x.parquet", SCHEMA) as writer:
        writer.write(some_rows(["a"]), None)
        raise KeyError
    assert not (tmp_path / "x.parquet").exists()


def test_names_that_are_taken_twice() -> None:
    table = pa.table({"key": [1], "source_key": [2], "other": [3]})
    assert renamed_metadata(table, ["key"]).column_names == [
        *("source_key", "source_source_key", "other")
    ]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_embeddings_survive_parquet_where_some_are_missing(tmp_path: Path, dtype: str) -> None:
    vector = np.linspace(-1, 1, 768, dtype=np.float32)
    column = embedding_array(np.stack([vector, np.full(768, np.nan), -vector]), dtype)
    pq.write_table(pa.table({"embedding": column}), tmp_path / "x.parquet")
    back = pq.read_table(tmp_path / "x.parquet")["embedding"].combine_chunks()
    matrix = back.values.to_numpy().reshape(-1, 768)
    assert matrix.dtype == dtype
    assert np.array_equal(matrix[0], vector.astype(dtype))
    assert np.isnan(matrix[1]).all()
    assert np.array_equal(matrix[2], -vector.astype(dtype))


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    scores = np.random.default_rng(0).normal(5, 1, 5000).astype(np.float32)
    whole, parts = ScoreStats(), ScoreStats()
    whole.add(scores)
    for part in np.split(scores, [1, 7, 7, 3000]):
        one = ScoreStats()
        one.add(part)
        parts.merge(ScoreStats.from_json(one.to_json()))
    assert parts.count == 5000
    assert parts.bins == whole.bins
    for name in ("mean", "std", "low", "high"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12)
    assert whole.mean == pytest.approx(scores.astype(np.float64).mean())
    assert whole.std == pytest.approx(scores.astype(np.float64).std())


def test_histogram_bins_are_tenths_from_the_lowest() -> None:
    stats = ScoreStats()
    stats.add(np.float32([5.0, 5.05, 5.25, np.nan, -0.05]))
    found = stats.to_json()
    assert found["count"] == 4
    assert found["histogram"]["start"] == -0.1
    assert found["histogram"]["counts"][0] == 1
    assert found["histogram"]["counts"][51:] == [2, 0, 1]
    assert sum(found["histogram"]["counts"]) == 4


def test_statistics_of_nothing() -> None:
    stats = ScoreStats()
    stats.add(np.float32([np.nan]))
    found = stats.to_json()
    assert found["min"] is None
    assert found["histogram"]["counts"] == []
    assert ScoreStats.from_json(found) == ScoreStats()
