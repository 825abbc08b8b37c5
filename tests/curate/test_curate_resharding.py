"""Filtered data sets: every selected sample once, its bytes unchanged, ids that agree."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_commands import all_files, hashes
from curate_datasets import img2dataset
from curate_filters import GOOD, scored_data, selected, write, written
from curate_results import SCORE, write_shard
from webdataset import tariterators

from aesthetic_curate import filtered_shards
from aesthetic_curate.filter_jobs import OutputShard, Piece
from aesthetic_curate.filter_runs import split_blocks
from aesthetic_curate.results import Results, ScoredShard
from aesthetic_curate.selection import Selection, select
from aesthetic_curate.shards import Shard


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    return scored_data(tmp_path_factory.mktemp("data"))


def test_the_output_is_the_selection_byte_for_byte(
    data: tuple[list[Path], Path], tmp_path: Path
) -> None:
    tars, scored = data
    results = Results.open(str(scored))
    random = np.random.default_rng(3)
    for trial in range(6):
        share = random.choice([0.02, 0.3, 1.0])
        rows = [np.flatnonzero(random.random(40) < share).astype(np.uint32) for _ in tars]
        rows[trial % 4] = np.union1d(rows[trial % 4], [7]).astype(np.uint32)
        size = int(random.choice([7, 40, 1000])) if share < 1 else 33
        out = tmp_path / str(trial)
        stats = write(scored, out, Selection(rows), samples_per_shard=size)
        expected = selected(tars, Selection(rows))
        found = written(out)
        for (new, files), (old, before) in zip(found, expected, strict=True):
            assert files["jpg"] == before["jpg"] and files["txt"] == before["txt"]
            assert list(files) == list(before)
            fields = json.loads(files["json"])
            assert (fields.pop("key"), fields.pop("old_key")) == (new, old)
            assert fields == {k: v for k, v in json.loads(before["json"]).items() if k != "key"}
        table = pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("*.parquet"))])
        assert table["key"].to_pylist() == [key for key, _ in found]
        assert table["old_key"].to_pylist() == [key for key, _ in expected]
        source = [
            results.rows(shard, picked)
            for shard, picked in zip(results.shards, rows, strict=True)
            if len(picked)
        ]
        assert table.drop_columns(["key", "old_key"]).equals(
            pa.concat_tables(source)
            .drop_columns(["key"])
            .cast(table.drop_columns(["key", "old_key"]).schema)
        )
        sizes = [one["samples"] for one in stats]
        assert sizes[:-1] == [size] * (len(sizes) - 1) and 0 < sizes[-1] <= size
        assert [key for key, _ in found] == [
            f"{number:05d}{index:04d}" for number, n in enumerate(sizes) for index in range(n)
        ]


def test_webdataset_reads_the_output(data: tuple[list[Path], Path], tmp_path: Path) -> None:
    tars, scored = data
    write(scored, tmp_path, samples_per_shard=25)
    samples: list[dict[str, Any]] = []
    for tar in sorted(tmp_path.glob("*.tar")):
        with tar.open("rb") as file:
            files = tariterators.tar_file_expander([{"url": tar.name, "stream": file}])
            samples += tariterators.group_by_keys(files)
    expected = selected(tars, select(Results.open(str(scored)), GOOD))
    assert [sample["jpg"] for sample in samples] == [files["jpg"] for _, files in expected]
    table = pa.concat_tables([pq.read_table(path) for path in sorted(tmp_path.glob("*.parquet"))])
    assert [sample["__key__"] for sample in samples] == table["key"].to_pylist()
    assert min(table[SCORE].to_pylist()) >= 5.5


def test_tars_tell_nothing_of_this_machine(data: tuple[list[Path], Path], tmp_path: Path) -> None:
    write(data[1], tmp_path)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        owners = {(one.uid, one.gid, one.uname, one.gname, one.mtime, one.mode) for one in tar}
    assert owners == {(0, 0, "", "", 1_700_000_000, 0o644)}


def test_workers_write_the_same_bytes(data: tuple[list[Path], Path], tmp_path: Path) -> None:
    one = write(data[1], tmp_path / "one", samples_per_shard=9)
    two = write(data[1], tmp_path / "two", samples_per_shard=9, workers=2)
    assert sorted(stats["filtered"] for stats in two) == [stats["filtered"] for stats in one]
    for suffix in (".tar", ".parquet", "_stats.json"):
        assert hashes(tmp_path / "one", suffix) == hashes(tmp_path / "two", suffix)
    assert all_files(tmp_path / "one") == all_files(tmp_path / "two")


@pytest.mark.parametrize("size", [1, 9, 30, 1000])
def test_one_worker_opens_each_source_once(
    data: tuple[list[Path], Path], tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    whole = filtered_shards.open_source

    def counted(shard: Shard, options: Any) -> Any:
        opened.append(shard.name)
        return whole(shard, options)

    monkeypatch.setattr(filtered_shards, "open_source", counted)
    write(data[1], tmp_path, samples_per_shard=size)
    assert opened == ["00000", "00001", "00002", "00003"]


def test_blocks_keep_sources_together() -> None:
    def piece(source: str) -> Piece:
        scored = ScoredShard(Shard(source, "tar", source), {}, "")
        return Piece(scored, np.zeros(1, np.uint32))

    sources = ["a", "a", "ab", "b", "bc", "cd", "d", "d", "d", "d"]
    shards = [
        OutputShard(number, str(number), tuple(map(piece, names)))
        for number, names in enumerate(sources)
    ]
    blocks = [[shard.number for shard in block] for block in split_blocks(shards, 3)]
    assert blocks == [[0, 1, 2], [3, 4], [5], [6, 7, 8, 9]]
    assert [len(block) for block in split_blocks(shards[6:], 2)] == [2, 2]  # one source, shared


def test_empty_shards_and_shards_without_a_kept_sample_are_passed_over(tmp_path: Path) -> None:
    for number, samples in enumerate((1, 11, 11)):  # the last of each failed to download
        (tar,) = img2dataset(tmp_path / str(number), shards=1, samples=samples)
        scores = [4.0 if number == 1 else 6.0] * (samples - 1)
        write_shard(tmp_path / "scored", tar, scores, name=f"{number}/00000")
    (stats,) = write(tmp_path / "scored", tmp_path / "out")
    assert stats["sources"] == [
        {"shard": "2/00000", "url": str(tmp_path / "2/00000.tar"), "rows": 10}
    ]
    found = Results.open(str(tmp_path / "scored"))
    assert (found.samples, len(found.shards)) == (20, 3)
    assert len(written(tmp_path / "out")) == 10


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (pa.array([2**53 + 1]), pa.array([0.5]), ["9007199254740993", "0.5"]),
        (pa.array([[2**53 + 1]]), pa.array([[0.5]]), ["[9007199254740993]", "[0.5]"]),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([-1]), ["18446744073709551615", "-1"]),
        (pa.array([7], pa.uint64()), pa.array([-1]), [7, -1]),
        (
            pa.array([2**34], pa.timestamp("s")),
            pa.array([1000], pa.timestamp("ns")),
            ['"2514-05-30 01:53:04"', '"1970-01-01 00:00:00.000001"'],
        ),
        (pa.array([None]), pa.array([[1]]), [None, [1]]),
    ],
)
def test_values_that_the_common_type_cannot_hold_become_text(
    tmp_path: Path, one: pa.Array, other: pa.Array, expected: list[object]
) -> None:
    for number, values in enumerate((one, other)):
        (tar,) = img2dataset(tmp_path / str(number), shards=1, samples=2)  # one failed to download
        write_shard(tmp_path / "scored", tar, [6.0], name=str(number))
        path = tmp_path / f"scored/{number}.parquet"
        pq.write_table(pq.read_table(path).append_column("field", values), path)
    write(tmp_path / "scored", tmp_path / "out")
    assert pq.read_table(tmp_path / "out/00000.parquet")["field"].to_pylist() == expected
