"""Parquets with images in them, or with paths of images."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_datasets import photo
from curate_tables import OPTIONS, chunks, samples, table, write

from aesthetic_client.errors import InputError
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.inputs import find_shards
from aesthetic_curate.opening import open_source
from aesthetic_curate.options import InputOptions
from aesthetic_curate.parquet_rows import ParquetRows
from aesthetic_curate.samples import Sample


def test_bytes_keys_and_metadata(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.parquet",
        {
            "id": [7, None, 9],
            "image": [b"a", None, b""],
            "caption": ["x", "y", None],
            "raw": [b"r"] * 3,
        },
    )
    (chunk,) = chunks(table(path))
    empty = "the column image is empty here"
    assert list(chunk.samples) == [
        Sample("7", b"a"),
        Sample("000000001", status="no_image", error=empty),
        Sample("9", b""),
    ]
    assert chunk.metadata.to_pydict() == {"id": [7, None, 9], "caption": ["x", "y", None]}


def test_columns_that_are_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.parquet", {"key": ["a"], "name": ["b"], "image": [b"i"], "thumb": [b"t"]}
    )
    named = InputOptions(key_column="name", image_column="thumb")
    assert samples(table(path), named) == [Sample("b", b"t")]
    assert samples(table(path)) == [Sample("a", b"i")]
    with pytest.raises(InputError, match=r"t\.parquet: has no column 'none'; it has key, name"):
        samples(table(path), InputOptions(key_column="none"))


def test_a_table_of_nothing_but_images(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"jpg": [photo(0), photo(1)]})
    (chunk,) = chunks(table(path))
    assert chunk.metadata is None
    assert [(s.key, s.image) for s in chunk.samples] == [
        ("000000000", photo(0)),
        ("000000001", photo(1)),
    ]


def test_hugging_face_structs(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1.jpg").write_bytes(b"by path")
    images = [
        {"bytes": b"own", "path": "0.jpg"},
        {"bytes": None, "path": "files/1.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    path = write(tmp_path / "t.parquet", {"picture": images, "label": [1, 2, 3, 4]})
    found = samples(table(path))
    assert [(s.status, s.name, s.image) for s in found] == [
        ("ok", "0.jpg", b"own"),
        ("ok", "files/1.jpg", b"by path"),
        ("no_image", "", None),
        ("no_image", "", None),
    ]
    assert chunks(table(path))[0].metadata.column_names == ["label"]


def test_paths_are_looked_up_from_the_parquet(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(b"relative")
    outside = tmp_path / "b.jpg"
    outside.write_bytes(b"absolute")
    path = write(
        tmp_path / "sub" / "t.parquet",
        {"path": ["a.jpg", str(outside), f"file://{outside}", "../b.jpg", "c.jpg", ""]},
    )
    found = samples(table(path))
    assert [s.image for s in found] == [b"relative", *[b"absolute"] * 3, None, None]
    assert [s.status for s in found[4:]] == ["unreadable", "no_image"]
    assert found[4].error.endswith("sub/c.jpg: there is no such file")
    assert found[0].name == "a.jpg"


def test_a_path_with_a_zero_byte_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    path = write(tmp_path / "t.parquet", {"path": ["a\0.jpg", "a.jpg"]})
    found = samples(table(path))
    assert [(s.status, s.image) for s in found] == [("unreadable", None), ("ok", b"a")]
    assert found[0].error.endswith("embedded null byte")


def test_a_remote_table_of_paths(memory: str) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/bucket/images/0.jpg", b"zero")
    sink = io.BytesIO()
    names = ["images/0.jpg", "memory://bucket/images/0.jpg", "images/1.jpg"]
    pq.write_table(pa.table({"file_name": names}), sink)
    fs.pipe_file("/bucket/t.parquet", sink.getvalue())
    (shard,) = find_shards([memory + "/t.parquet"], OPTIONS)
    found = samples(shard)
    assert [(s.status, s.image) for s in found] == [
        ("ok", b"zero"),
        ("ok", b"zero"),
        ("unreadable", None),
    ]
    assert found[2].error == "memory://bucket/images/1.jpg: there is no such file"


@pytest.mark.parametrize("row_group_size", [1, 7, 100, 1000])
def test_slices_may_cut_row_groups(tmp_path: Path, row_group_size: int) -> None:
    count = 300
    path = write(
        tmp_path / "t.parquet",
        {
            "image": [str(index).encode() for index in range(count)],
            "number": list(range(count)),
        },
        row_group_size,
    )
    whole = samples(table(path))
    assert [s.image for s in whole] == [str(index).encode() for index in range(count)]
    assert whole[42].key == "000000042"
    pieces: list[Sample] = []
    for shard in find_shards([str(path)], InputOptions(rows_per_shard=37)):
        for chunk in chunks(shard):
            pieces += chunk.samples
            assert [s.image for s in chunk.samples] == [
                str(number).encode() for number in chunk.metadata["number"].to_pylist()
            ]
    assert pieces == whole
    for start, stop in ((0, 0), (5, 5), (299, 400), (400, 500), (0, 1)):
        assert samples(table(path, start, stop)) == whole[start:stop]
    with open_source(table(path, 100, 200), OPTIONS) as source:
        assert source.members(42)[0].data == b"142"
        assert json.loads(source.members(99)[1].data) == {"number": 199}


def test_rows_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aesthetic_curate.parquet_rows.CACHE_BYTES", 0)
    path = write(tmp_path / "t.parquet", {"n": list(range(50)), "m": ["x"] * 50}, 8)
    rows = ParquetRows(str(path))
    wanted = [49, -1, 0, 8, 7, 49, -1, 30]
    taken = rows.take(np.array(wanted), ["n"])
    assert taken.to_pydict() == {"n": [None if row < 0 else row for row in wanted]}
    assert rows.take(np.array([-1, -1])).to_pydict() == {"n": [None] * 2, "m": [None] * 2}
    assert rows.take(np.zeros(0, np.int64)).num_rows == 0
    rows.close()


def test_chunks_of_large_images_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).bytes
    columns = {"image": [noise(10_000) for _ in range(40)], "n": list(range(40))}
    path = write(tmp_path / "t.parquet", columns)
    for module in ("tables", "grouped_source"):
        monkeypatch.setattr(f"aesthetic_curate.{module}.CHUNK_BYTES", 35_000)
    found = chunks(table(path))
    assert all(len(chunk.samples) <= 4 for chunk in found)
    assert [n for chunk in found for n in chunk.metadata["n"].to_pylist()] == list(range(40))
    assert [s.image for chunk in found for s in chunk.samples] == columns["image"]


def test_rows_of_a_large_row_group_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).bytes
    images = [noise(10_000) for _ in range(2000)]
    columns = {"image": images, "n": list(range(2000)), "raw": [noise(10_000)] * 2000}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=1500, write_batch_size=32)
    begun: list[int] = []
    batches = ParquetRows.batches

    def counted(self: ParquetRows, start: int, *rest: Any) -> Any:
        begun.append(start)
        return batches(self, start, *rest)

    monkeypatch.setattr(ParquetRows, "batches", counted)
    with open_source(table(path, 10), OPTIONS) as source:
        before, most = pa.total_allocated_bytes(), 0
        for row in (0, 3, 3, 300, 1200, 1489, 1490, 1989, 700, 701, 1980):
            image, record = source.members(row)
            assert image.data == images[row + 10]
            assert json.loads(record.data) == {"n": row + 10}
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 12 * 2**20  # the first row group has 15 MB of images, and as much of the rest
    assert begun == [10, 710, 1990]  # again for a row before, and past the rest of a row group


def test_entries_of_a_row(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.parquet",
        {"key": ["a.b", "/c"], "image": [photo(0), b"\x89PNG..."], "caption": ["é", None]},
    )
    target = io.BytesIO()
    with open_source(table(path), OPTIONS) as source:
        for row in (1, 0):
            source.append_to(row, target)
    target.write(bytes(1024))
    target.seek(0)
    with tarfile.open(fileobj=target) as tar:
        found = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    assert list(found) == ["c.png", "c.json", "a_b.jpg", "a_b.json"]
    assert found["a_b.jpg"] == photo(0)
    assert json.loads(found["a_b.json"]) == {"key": "a.b", "caption": "é"}


def test_broken_tables_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UnreadableError, match=r"t\.parquet: cannot be read as a parquet"):
        samples(table(path))
    with pytest.raises(UnreadableError, match=r"none\.parquet: there is no such file"):
        samples(table(tmp_path / "none.parquet"))
    write(path, {"image": [photo(seed) for seed in range(50)]})
    blocks = bytearray(path.read_bytes())
    blocks[100:2000] = bytes(1900)
    path.write_bytes(blocks)
    with pytest.raises(UnreadableError, match=r"t\.parquet: cannot be read as a parquet"):
        samples(table(path))
    write(path, {"a": [1], "b": ["x"]})
    with pytest.raises(InputError, match="no column of images was found among a, b"):
        samples(table(path))
