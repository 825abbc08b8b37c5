"""Stored embeddings in arrays, their metadata, slices, memory; and chunks of them scored."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_datasets import unit_embeddings
from curate_embeddings import ROWS, keys, metadata, read, vectors

from aesthetic_client import HEADS
from aesthetic_curate import embedding_tables
from aesthetic_curate.embeddings import score_embedding_chunk
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.options import InputOptions
from aesthetic_curate.samples import EmbeddingChunk


def clip_retrieval(folder: Path, units: np.ndarray) -> tuple[Path, Path]:
    """img_emb_0.npy and metadata_0.parquet."""
    folder.mkdir()
    np.save(folder / "img_emb_0.npy", units.astype(np.float16))
    names = [f"{row:05d}" for row in range(len(units))]
    table = pa.table({"key": names, "caption": [f"no. {name}" for name in names]})
    pq.write_table(table, folder / "metadata_0.parquet", row_group_size=7)
    return folder / "img_emb_0.npy", folder / "metadata_0.parquet"


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_of_each_type_and_order(
    tmp_path: Path, small_chunks: int, dtype: str, order: str
) -> None:
    given = np.asarray(unit_embeddings(ROWS), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", given)
    chunks = read(tmp_path / "a.npy")
    assert [len(chunk.keys) for chunk in chunks] == [16, 16, 16, 2]
    assert np.array_equal(vectors(chunks), given)
    assert {chunk.embeddings.dtype for chunk in chunks} == {np.dtype(dtype)}
    assert isinstance(chunks[0].embeddings, np.memmap)  # nothing was copied
    assert keys(chunks) == [f"{row:09d}" for row in range(ROWS)]
    assert all(chunk.metadata is None for chunk in chunks)


def test_a_slice_of_an_array_keeps_its_row_numbers(tmp_path: Path, small_chunks: int) -> None:
    given = unit_embeddings(ROWS)
    np.save(tmp_path / "a.npy", given)
    chunks = read(tmp_path / "a.npy", start=10, stop=45)
    assert np.array_equal(vectors(chunks), given[10:45])
    assert keys(chunks)[0] == "000000010" and keys(chunks)[-1] == "000000044"
    assert len(keys(read(tmp_path / "a.npy", start=40, stop=90))) == 10
    assert read(tmp_path / "a.npy", start=60) == []


@pytest.mark.parametrize(("start", "stop"), [(0, None), (5, 33), (48, 50)])
def test_clip_retrieval_metadata_goes_along(
    tmp_path: Path, small_chunks: int, start: int, stop: int | None
) -> None:
    given = unit_embeddings(ROWS)
    array, table = clip_retrieval(tmp_path / "c", given)
    chunks = read(array, start=start, stop=stop, metadata=table)
    expected = range(ROWS)[start:stop]
    assert keys(chunks) == [f"{row:05d}" for row in expected]
    assert metadata(chunks).column_names == ["key", "caption"]
    assert metadata(chunks)["caption"].to_pylist() == [f"no. {row:05d}" for row in expected]
    assert np.array_equal(vectors(chunks), given.astype(np.float16)[start:stop])
    named = InputOptions(key_column="caption", embedding_column="of another input")
    assert keys(read(array, named, metadata=table))[3] == "no. 00003"


def test_metadata_of_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    array, table = clip_retrieval(tmp_path / "c", unit_embeddings(ROWS))
    np.save(array, unit_embeddings(ROWS - 1))
    with pytest.raises(UnreadableError) as raised:
        read(array, metadata=table)
    text = str(raised.value)
    assert f"{table} has 50 rows, but {array} has 49 embeddings" in text


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 512), np.float16), r"of shape \(3, 512\), expected \(n, 768\)"),
        (np.zeros(768, np.float32), r"of shape \(768,\), expected \(n, 768\)"),
        (np.zeros((1, 3, 768), np.float32), r"of shape \(1, 3, 768\), expected \(n, 768\)"),
        (np.zeros((3, 768), np.int8), "of type int8, expected float16, float32 or float64"),
    ],
)
def test_arrays_of_something_else_are_refused(
    tmp_path: Path, array: np.ndarray, reason: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UnreadableError, match=reason) as raised:
        read(tmp_path / "a.npy")
    assert str(tmp_path / "a.npy") in str(raised.value)


def test_files_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", unit_embeddings(9))
    data = (tmp_path / "whole.npy").read_bytes()
    np.save(tmp_path / "pickle.npy", np.array([None, "x"], object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes(data[: len(data) // 2])
    (tmp_path / "header.npy").write_bytes(data[:40])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npy").write_text("0.1, 0.2")
    for name in ("pickle", "cut", "header", "empty", "text"):
        with pytest.raises(UnreadableError, match=r"cannot be read as an \.npy array") as raised:
            read(tmp_path / f"{name}.npy")
        assert f"{name}.npy" in str(raised.value)
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, a=unit_embeddings(2))
    with pytest.raises(UnreadableError, match=r"archive\.npy: is an \.npz archive"):
        read(tmp_path / "archive.npy")
    with pytest.raises(UnreadableError, match=r"absent\.npy"):
        read(tmp_path / "absent.npy")
    np.save(tmp_path / "none.npy", np.empty((0, 768), np.float16))
    assert read(tmp_path / "none.npy") == []


@pytest.mark.parametrize("first", [0, 7, 99_995, 999_999_990, 999_999_995, 10**12])
def test_rows_are_numbered_with_nine_digits_or_more(first: int) -> None:
    keys = embedding_tables.numbered_keys(first, 10)
    assert keys == [str(number).zfill(9) for number in range(first, first + 10)]
    assert all(type(key) is str for key in keys)


MEMORY = """
import sys
from pathlib import Path
from aesthetic_curate.embeddings import open_embeddings
from aesthetic_curate.options import InputOptions
from aesthetic_curate.shards import Shard
def peak_kib():  # ru_maxrss would begin with what the process that started this one had
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))

rows = peak = 0
with open_embeddings(Shard("n", "embeddings", sys.argv[1]), InputOptions()) as source:
    for chunk in source.chunks():
        rows += len(chunk.keys)
        float(chunk.embeddings.sum())
        if not peak:
            peak = peak_kib()
print(rows, peak_kib() - peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of /proc")
@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_memory_stays_that_of_a_chunk(tmp_path: Path, suffix: str) -> None:
    """200,000 rows are 300 MB; reading all of them takes hardly more than reading the first."""
    path = tmp_path / f"a.{suffix}"
    units = np.resize(unit_embeddings(1000).astype(np.float16), (200_000, 768))
    if suffix == "npy":
        np.save(path, units)
    else:
        column = pa.FixedSizeListArray.from_arrays(units.ravel(), 768)
        options = {"compression": "none", "use_dictionary": False, "row_group_size": 50_000}
        pq.write_table(pa.table({"embedding": column}), path, **options)
        del column
    del units
    assert path.stat().st_size > 290 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True
    )
    rows, grown_kib = map(int, done.stdout.split())
    assert rows == 200_000
    assert grown_kib < 120 * 2**10


def served(units: np.ndarray, heads: Sequence[object]) -> dict[str, np.ndarray]:
    """A head that is the vector's first number, and one that is its second."""
    assert units.dtype == np.float32 and units.flags.c_contiguous
    assert np.isfinite(units).all()  # what no server would mind
    calls.append(len(units))
    return {head.output: units[:, at] for at, head in enumerate(heads)}  # type: ignore[attr-defined]


calls: list[int] = []


@pytest.fixture(autouse=True)
def no_calls() -> Iterator[None]:
    calls.clear()
    yield


def test_a_chunk_is_scored_whole_with_its_bad_rows() -> None:
    given = unit_embeddings(9000, seed=3).astype(np.float16)
    given[5] *= 12
    given[8999, 3] = np.inf
    given[4100] = np.nan
    chunk = EmbeddingChunk(["k"] * 9000, given, None, {4100: "has no embedding"})
    scored = score_embedding_chunk(chunk, served, HEADS[:2])
    assert sorted(calls) == [808, 4096, 4096]
    bad = [5, 4100, 8999]
    assert list(scored.problems) == bad == np.flatnonzero(~scored.ok).tolist()
    assert scored.statuses == {"ok": 8997, "bad_embedding": 3}
    assert scored.units is None
    found = scored.columns()
    assert list(found) == ["status", "error", HEADS[0].output, HEADS[1].output]
    assert found["status"].take(pa.array([4, 5])).to_pylist() == ["ok", "bad_embedding"]
    assert found["error"].null_count == 8997
    assert found["error"][5].as_py().startswith("has norm 12")
    assert found["error"][4100].as_py() == "has no embedding"
    assert found["error"][8999].as_py() == "holds NaN or infinity"
    for at, head in enumerate(HEADS[:2]):
        values = found[head.output]
        assert values.type == pa.float32()
        assert [row for row in bad if values[row].is_valid] == [] and values.null_count == 3
        assert values[17].as_py() == given[17, at]


def test_raw_features_are_scored_when_they_are_normalised() -> None:
    unit = unit_embeddings(40, seed=4)
    chunk = EmbeddingChunk([""] * 40, unit * 11, None)
    refused = score_embedding_chunk(chunk, served, HEADS[:1])
    assert refused.statuses == {"bad_embedding": 40}
    assert refused.problems[0] == "has norm 11, expected 1: pass --normalize for raw CLIP features"
    scored = score_embedding_chunk(chunk, served, HEADS[:1], normalize=True, keep_units=True)
    assert scored.statuses == {"ok": 40}
    assert np.abs(scored.scores[HEADS[0].output] - unit[:, 0]).max() < 1e-7
    assert scored.units is not None
    assert np.abs(scored.units - unit).max() < 1e-7


def test_what_the_scorer_raises_comes_through() -> None:
    def away(units: np.ndarray, heads: object) -> dict[str, np.ndarray]:
        raise ConnectionError("the server is gone")

    chunk = EmbeddingChunk([""] * 9000, unit_embeddings(9000), None)
    with pytest.raises(ConnectionError, match="the server is gone"):
        score_embedding_chunk(chunk, away, HEADS[:1])


def test_an_empty_chunk_asks_nobody() -> None:
    chunk = EmbeddingChunk([], np.empty((0, 768), np.float16), None)
    scored = score_embedding_chunk(chunk, served, HEADS)
    assert calls == [] and scored.statuses == {}
    assert {len(column) for column in scored.columns().values()} == {0}
