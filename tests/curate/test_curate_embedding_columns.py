"""Stored embeddings in parquets: columns of each type, keys, bad rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_datasets import unit_embeddings
from curate_embeddings import ROWS, keys, metadata, read, vectors

from aesthetic_client.errors import InputError
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.options import InputOptions


def lists(rows: Sequence[np.ndarray | None], kind: pa.DataType) -> pa.Array:
    dtype = kind.value_type.to_pandas_dtype()
    return pa.array([None if row is None else row.astype(dtype) for row in rows], kind)


FLOATS = {"half": pa.float16(), "float": pa.float32(), "double": pa.float64()}


@pytest.mark.parametrize("floats", list(FLOATS))
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda of: pa.list_(of, 768)])
def test_a_column_of_each_type(tmp_path: Path, small_chunks: int, floats: str, kind) -> None:
    given = unit_embeddings(ROWS)
    table = pa.table(
        {
            "id": pa.array(range(100, 150)),
            "embedding": lists(list(given), kind(FLOATS[floats])),
            "caption": [f"c{row}" for row in range(ROWS)],
            "image": [b"\xff\xd8\xff"] * ROWS,
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=20)
    for start, stop in ((0, None), (7, 41), (20, 40), (49, 50)):
        chunks = read(tmp_path / "t.parquet", start=start, stop=stop)
        expected = given.astype(chunks[0].embeddings.dtype)[start:stop]
        assert chunks[0].embeddings.dtype.itemsize == FLOATS[floats].bit_width // 8
        assert np.array_equal(vectors(chunks), expected)
        assert keys(chunks) == [str(row) for row in range(100, 150)[start:stop]]
        assert metadata(chunks).column_names == ["id", "caption"]
        assert metadata(chunks)["caption"].to_pylist() == [f"c{r}" for r in range(ROWS)][start:stop]
        assert not any(chunk.problems for chunk in chunks)
        assert not chunks[0].embeddings.flags.owndata  # Arrow's memory as it is


@pytest.mark.parametrize("fixed", [False, True])
def test_rows_without_an_embedding_leave_the_rest(
    tmp_path: Path, small_chunks: int, fixed: bool
) -> None:
    """Fixed-size lists with nulls, which Arrow writes and cannot read back, too."""
    given = unit_embeddings(ROWS)
    rows: list[np.ndarray | None] = list(given)
    rows[0] = rows[17] = rows[49] = None
    if not fixed:
        rows[18] = np.zeros(512, np.float32)
        rows[19] = np.zeros(0, np.float32)
        rows[20] = np.zeros(769, np.float32)
    kind = pa.list_(pa.float32(), 768) if fixed else pa.list_(pa.float32())
    table = pa.table({"embedding": lists(rows, kind), "n": range(ROWS)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=30)
    chunks = read(tmp_path / "t.parquet")
    at, problems = 0, {}
    for chunk in chunks:
        problems.update({at + row: text for row, text in chunk.problems.items()})
        at += len(chunk.keys)
    expected = dict.fromkeys((0, 17, 49), "has no embedding")
    if not fixed:
        width = "holds {} numbers, expected 768 of CLIP ViT-L/14"
        expected |= {18: width.format(512), 19: width.format(0), 20: width.format(769)}
    assert problems == expected
    found = vectors(chunks)
    assert np.isnan(found[list(expected)]).all()
    good = [row for row in range(ROWS) if row not in expected]
    assert np.array_equal(found[good], given[good])
    assert metadata(chunks)["n"].to_pylist() == list(range(ROWS))


def test_numbers_missing_within_a_row_are_nan(tmp_path: Path) -> None:
    values: list[list[float | None]] = unit_embeddings(3).tolist()
    values[1][700] = None
    pq.write_table(pa.table({"embedding": values}), tmp_path / "t.parquet")
    (chunk,) = read(tmp_path / "t.parquet")
    assert np.argwhere(np.isnan(chunk.embeddings)).tolist() == [[1, 700]]
    assert chunk.problems == {}


def test_keys_from_their_column_or_the_rows_number(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    column = pa.FixedSizeListArray.from_arrays(unit_embeddings(3).ravel(), 768)
    pq.write_table(pa.table({"image_embedding": column}), path)
    (chunk,) = read(path)
    assert list(chunk.keys) == ["000000000", "000000001", "000000002"]
    assert chunk.metadata is None
    table = pa.table(
        {
            "image_embedding": column,
            "name": pa.array(["x", None, "z"]).dictionary_encode(),
            "other": [[0.5]] * 3,
        }
    )
    pq.write_table(table, path)
    (chunk,) = read(path, InputOptions(key_column="name"))
    assert list(chunk.keys) == ["x", "000000001", "z"]
    assert chunk.metadata is not None
    assert chunk.metadata.column_names == ["name", "other"]
    (chunk,) = read(path, InputOptions(key_column="name"), start=2)
    assert list(chunk.keys) == ["z"]


def test_the_column_that_is_named_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    one, two = unit_embeddings(4, seed=1), unit_embeddings(4, seed=2)
    table = pa.table({"embedding": list(one), "mine": list(two)})
    pq.write_table(table, path)
    assert np.array_equal(vectors(read(path)), one)
    chunks = read(path, InputOptions(embedding_column="mine"))
    assert np.array_equal(vectors(chunks), two)
    assert metadata(chunks).column_names == ["embedding"]  # kept, as any other column


@pytest.mark.parametrize(
    ("columns", "options", "reason"),
    [
        ({"text": ["a"]}, {}, "no column of embeddings was found among text; name it with"),
        ({"x": [[0.1] * 768]}, {"embedding_column": "y"}, "has no column 'y'; it has x"),
        ({"x": ["a"]}, {"embedding_column": "x"}, "the column 'x' holds string, expected lists"),
        ({"x": [[1, 2]]}, {"embedding_column": "x"}, "the column 'x' holds list<element: int64>"),
        (
            {"embedding": pa.array([[0.5] * 512], pa.list_(pa.float32(), 512))},
            {},
            r"fixed_size_list<element: float>\[512\], expected lists of 768 floats",
        ),
    ],
)
def test_parquets_of_something_else_are_refused(
    tmp_path: Path, columns: dict[str, object], options: dict[str, str], reason: str
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match=reason) as raised:
        read(path, InputOptions(**options))  # type: ignore[arg-type]
    assert str(path) in str(raised.value)


def test_broken_parquets_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"embedding": list(unit_embeddings(300))}), path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableError, match=r"t\.parquet: cannot be read as a parquet file"):
        read(path)
    damaged = bytearray(data)  # the footer is whole, pages are not
    damaged[1000:200_000] = bytes(199_000)
    path.write_bytes(damaged)
    with pytest.raises(UnreadableError, match=r"t\.parquet: cannot be read as a parquet file"):
        read(path)
