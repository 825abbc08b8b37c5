"""Filtered data sets: every selected sample once, its bytes unchanged, ids that agree."""

from __future__ import annotations

import errno
import json
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_commands import all_files, hashes
from curate_datasets import img2dataset, jpegs, write_tar
from curate_results import SCORE, drawn, grouped, write_results, write_shard
from webdataset import tariterators

from aesthetic_client.errors import InputError
from aesthetic_curate import filtered_shards
from aesthetic_curate.errors import NoSamplesError, OutputError, UnreadableError
from aesthetic_curate.filter_runs import run, split_blocks
from aesthetic_curate.filtered_shards import OutputShard, Piece, Settings
from aesthetic_curate.resharding import plan, prepare
from aesthetic_curate.results import Results, ScoredShard
from aesthetic_curate.selection import Condition, Criteria, Selection, select
from aesthetic_curate.shards import Shard

GOOD = Criteria((Condition(SCORE, low=5.5),))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """Four tars of 40 samples, and their scores."""
    folder = tmp_path_factory.mktemp("data")
    tars = img2dataset(folder / "data", shards=4, samples=41)
    write_results(folder / "scored", tars)
    return tars, folder / "scored"


def write(
    scored: Path,
    out: Path,
    selection: Selection | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Filter, and the stats of the shards that were written."""
    results = Results.open(str(scored))
    selection = selection or select(results, GOOD)
    planned = plan(results, GOOD, selection, str(out), Settings(**settings))
    return list(run(planned.job, prepare(planned, overwrite=overwrite).shards, workers))


def selected(tars: Iterable[Path], selection: Selection) -> list[tuple[str, dict[str, bytes]]]:
    every = [grouped(tar) for tar in tars]
    return [
        samples[row]
        for samples, rows in zip(every, selection.rows, strict=True)
        for row in rows.tolist()
    ]


def written(out: Path) -> list[tuple[str, dict[str, bytes]]]:
    return [sample for tar in sorted(out.glob("*.tar")) for sample in grouped(tar)]


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


# --- odd samples -------------------------------------------------------------------------------


def odd_tar(path: Path) -> Path:
    images = jpegs(4)
    return write_tar(
        path,
        [
            ("a.jpg", images[0]),
            ("dir/b.png", images[1]),
            ("a.seg.png", b"mask"),  # key a again, not next to its first file
            ("dir/b.json", b'{"key": "dir/b", "n": 1.50}'),
            ("a.jpg", images[2]),  # a further sample of key a
            ("c.JPG", images[3]),
            ("c.json", b"no json"),
        ],
    )


def test_odd_samples_keep_their_files_and_become_distinct(tmp_path: Path) -> None:
    tar = odd_tar(tmp_path / "odd.tar")
    write_shard(tmp_path / "scored", _without_broken_json(tar), [6.0, 7.0, 5.0, 6.5])
    _point_at(tmp_path / "scored", tar)
    rows = Selection([np.arange(4, dtype=np.uint32)])
    (stats,) = write(tmp_path / "scored", tmp_path / "out", rows)
    found = written(tmp_path / "out")
    images = jpegs(4)
    moved = b'{"old_key": "dir/b", "key": "000000001", "n": 1.50}'
    assert found == [
        ("000000000", {"jpg": images[0], "seg.png": b"mask"}),
        ("000000001", {"png": images[1], "json": moved}),
        ("000000002", {"jpg": images[2]}),
        ("000000003", {"JPG": images[3], "json": b"no json"}),
    ]
    assert pq.read_table(tmp_path / "out/00000.parquet")["old_key"].to_pylist() == [
        "a",
        "dir/b",
        "a",
        "c",
    ]
    assert stats["notes"] == {"broken_json": 1, "files": 7}


def test_json_is_added_on_request(tmp_path: Path) -> None:
    tar = odd_tar(tmp_path / "odd.tar")
    write_shard(tmp_path / "scored", _without_broken_json(tar), [6.0, 7.0, 5.25, 6.5])
    _point_at(tmp_path / "scored", tar)
    rows = Selection([np.arange(4, dtype=np.uint32)])
    (stats,) = write(tmp_path / "scored", tmp_path / "out", rows, add_json=True)
    found = dict(written(tmp_path / "out"))
    assert json.loads(found["000000002"]["json"]) == {
        "key": "000000002",
        "old_key": "a",
        SCORE: 5.25,
    }
    assert found["000000003"]["json"] == b"no json"
    assert stats["notes"]["added_json"] == 2


def test_kept_keys_keep_every_byte(tmp_path: Path) -> None:
    tar = odd_tar(tmp_path / "odd.tar")
    write_shard(tmp_path / "scored", _without_broken_json(tar), [6.0, 7.0, 5.0, 6.5])
    _point_at(tmp_path / "scored", tar)
    rows = Selection([np.arange(4, dtype=np.uint32)])
    (stats,) = write(tmp_path / "scored", tmp_path / "out", rows, keep_keys=True)
    with tarfile.open(tar) as before, tarfile.open(tmp_path / "out/00000.tar") as after:
        names = [member.name for member in after]
        assert names == [
            "a.jpg",
            "a.seg.png",
            "dir/b.png",
            "dir/b.json",
            "a.jpg",
            "c.JPG",
            "c.json",
        ]
        content = {(one.name, before.extractfile(one).read()) for one in before}  # type: ignore[union-attr]
        assert {(one.name, after.extractfile(one).read()) for one in after} == content  # type: ignore[union-attr]
    table = pq.read_table(tmp_path / "out/00000.parquet")
    assert table["key"].to_pylist() == ["a", "dir/b", "a", "c"]
    assert "old_key" not in table.column_names
    assert stats["notes"] == {"duplicate_keys": 1, "files": 7}


def test_columns_that_differ_between_shards_get_one_schema(tmp_path: Path) -> None:
    jpeg = jpegs(1)[0]
    fields = [{"n": 1, "only": "first"}, {"n": 2.5, "mixed": 1}, {"n": 2**60, "mixed": "text"}]
    for number, one in enumerate(fields):
        key = f"{number:09d}"
        members = [(f"{key}.jpg", jpeg), (f"{key}.json", json.dumps(one).encode())]
        tar = write_tar(tmp_path / f"data/{number:05d}.tar", members)
        write_shard(tmp_path / "scored", tar, [6.0])
    write(tmp_path / "scored", tmp_path / "out", samples_per_shard=1)
    tables = [pq.read_table(tmp_path / f"out/0000{n}.parquet") for n in range(3)]
    assert tables[0].schema.equals(tables[1].schema) and tables[1].schema.equals(tables[2].schema)
    whole = pa.concat_tables(tables)
    assert whole["n"].to_pylist() == ["1", "2.5", str(2**60)]  # text: no float holds 2**60 + 1
    assert whole["only"].to_pylist() == ["first", None, None]
    assert whole["mixed"].to_pylist() == [None, "1", "text"]


def test_filtering_a_filtered_data_set_keeps_every_old_key(
    data: tuple[list[Path], Path], tmp_path: Path
) -> None:
    write(data[1], tmp_path / "first")
    tars = sorted((tmp_path / "first").glob("*.tar"))
    count = len(grouped(tars[0]))
    write_results(tmp_path / "again", tars, [[6.0] * count])
    write(tmp_path / "again", tmp_path / "second", samples_per_shard=10)
    table = pq.read_table(tmp_path / "second/00001.parquet")
    first = pq.read_table(tmp_path / "first/00000.parquet").slice(10, 10)
    assert table["old_key"].to_pylist() == first["key"].to_pylist()
    assert table["source_old_key"].to_pylist() == first["old_key"].to_pylist()
    fields = json.loads(grouped(tmp_path / "second/00001.tar")[0][1]["json"])
    assert fields["source_old_key"] == first["old_key"][0].as_py()


def test_metadata_alone_needs_no_source(data: tuple[list[Path], Path], tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "gone", shards=1, samples=21)
    write_results(tmp_path / "scored", tars)
    tars[0].unlink()
    stats = write(tmp_path / "scored", tmp_path / "out", metadata_only=True)
    assert all_files(tmp_path / "out") == {"_filter.json", "00000.parquet", "00000_stats.json"}
    assert pq.read_metadata(tmp_path / "out/00000.parquet").num_rows == stats[0]["samples"]
    assert write(tmp_path / "scored", tmp_path / "out", metadata_only=True) == []  # all done


def test_scores_of_embeddings_want_metadata_only(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    write_results(tmp_path / "scored", tars, embeddings=True)
    _edit_stats(tmp_path / "scored", lambda stats: stats["shard"].update(kind="embeddings"))
    with pytest.raises(InputError, match="come without images: pass --metadata-only"):
        write(tmp_path / "scored", tmp_path / "out")
    write(tmp_path / "scored", tmp_path / "out", metadata_only=True)
    assert len(pq.read_table(tmp_path / "out/00000.parquet")["embedding"][0].as_py()) == 768


# --- sources that changed ----------------------------------------------------------------------


def test_changed_sources_are_refused(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    write_results(tmp_path / "scored", tars)
    advice = "run the score command again, which redoes what has changed.*--metadata-only"
    status = tars[0].stat()
    os.utime(tars[0], (1, 1))
    with pytest.raises(
        UnreadableError, match=rf"has changed since it was scored: modified.*{advice}"
    ):
        write(tmp_path / "scored", tmp_path / "out")
    samples = [(f"{key}.jpg", files["jpg"]) for key, files in grouped(tars[0])]
    _rewrite(tars[0], [("x" + name[1:], image) for name, image in samples], status)
    _trust(tmp_path / "scored", tars[0])
    with pytest.raises(UnreadableError, match=rf"sample \d+ was '00000\d+', and now 'x.*{advice}"):
        write(tmp_path / "scored", tmp_path / "out")
    _rewrite(tars[0], samples[1:], status)
    _trust(tmp_path / "scored", tars[0])
    with pytest.raises(UnreadableError, match=rf"it had 20 samples, and has 19; {advice}"):
        write(tmp_path / "scored", tmp_path / "out")
    tars[0].unlink()
    with pytest.raises(UnreadableError, match=rf"00000.tar: there is no such file; {advice}"):
        write(tmp_path / "scored", tmp_path / "out")
    assert all_files(tmp_path / "out") == {"_filter.json"}


# --- the output folder -------------------------------------------------------------------------


def test_a_rerun_redoes_only_what_is_missing(data: tuple[list[Path], Path], tmp_path: Path) -> None:
    stats = write(data[1], tmp_path, samples_per_shard=20)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in all_files(tmp_path)}
    content = hashes(tmp_path, "")
    assert len(stats) > 3
    (tmp_path / "00001_stats.json").unlink()
    (tmp_path / "00002.tar").unlink()
    (tmp_path / "00003_stats.json").write_text("{}")
    again = write(data[1], tmp_path, samples_per_shard=20)
    assert [one["filtered"] for one in again] == ["00001", "00002", "00003"]
    assert hashes(tmp_path, "") == content
    kept = [name for name in before if not name.startswith(("00001", "00002", "00003"))]
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == {
        name: before[name] for name in kept
    }


def test_filters_do_not_mix(data: tuple[list[Path], Path], tmp_path: Path) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    write(data[1], out, samples_per_shard=5)
    many = hashes(out, "")
    with pytest.raises(InputError, match=r"with other settings.*\"samples_per_shard\": 5.*"):
        write(data[1], out, samples_per_shard=50)
    assert hashes(out, "") == many
    write(data[1], out, samples_per_shard=50, overwrite=True)
    write(data[1], fresh, samples_per_shard=50)
    assert hashes(out, "") == hashes(fresh, "")


def test_changed_scores_are_another_filter(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=2, samples=21)
    write_results(tmp_path / "scored", tars)
    write(tmp_path / "scored", tmp_path / "out")
    write_results(tmp_path / "scored", tars, [drawn(20, 8), drawn(20, 9)])
    with pytest.raises(InputError, match="the scores have changed since"):
        write(tmp_path / "scored", tmp_path / "out")


def test_data_that_no_filter_wrote_is_left_alone(
    data: tuple[list[Path], Path], tmp_path: Path
) -> None:
    tars, scored = data
    before = hashes(tars[0].parent, "")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"files that no filter wrote, such as 00000\.parquet"):
            write(scored, tars[0].parent, overwrite=overwrite)
    assert hashes(tars[0].parent, "") == before
    with pytest.raises(InputError, match="choose a folder apart from the scores"):
        write(scored, scored / "filtered")


def test_settings_that_do_not_fit(data: tuple[list[Path], Path], tmp_path: Path) -> None:
    for name in ("", "key", SCORE, "status"):
        with pytest.raises(InputError, match="--old-key-column"):
            write(data[1], tmp_path, old_key_column=name)
    with pytest.raises(InputError, match="--samples-per-shard takes a number above 0"):
        write(data[1], tmp_path, samples_per_shard=0)
    nothing = Selection([np.zeros(0, np.uint32)] * 4)
    with pytest.raises(NoSamplesError, match=r"no sample of .* meets the conditions"):
        write(data[1], tmp_path, nothing)


def test_numbers_grow_where_the_digits_do_not_suffice(data: tuple[list[Path], Path]) -> None:
    results = Results.open(str(data[1]))
    rows = Selection([np.zeros(100_001, np.uint32), *[np.zeros(0, np.uint32)] * 3])
    planned = plan(results, GOOD, rows, "out", Settings(samples_per_shard=1))
    assert [planned.shards[0].name, planned.shards[-1].name] == ["000000", "100000"]
    big = plan(results, GOOD, rows, "out", Settings(samples_per_shard=100_000))
    assert big.job.new_keys(big.shards[1]) == ["0000100000"]


def test_a_full_disk_leaves_nothing_half_done(
    data: tuple[list[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(size: int) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(filtered_shards, "end_of_tar", full)
        with pytest.raises(OutputError, match="the disk is full"):
            write(data[1], tmp_path / "out")
    assert all_files(tmp_path / "out") == {"_filter.json"}
    write(data[1], tmp_path / "out")
    write(data[1], tmp_path / "fresh")
    assert hashes(tmp_path / "out", "") == hashes(tmp_path / "fresh", "")


# --- helpers -----------------------------------------------------------------------------------


def _without_broken_json(tar: Path) -> Path:
    """A copy whose broken JSON is an empty object, for the maker of scored rows."""
    clean = tar.with_name("clean.tar")
    data = tar.read_bytes().replace(b"no json", b"{}     ")
    clean.write_bytes(data)
    return clean


def _point_at(scored: Path, tar: Path) -> None:
    _edit_stats(scored, lambda stats: stats["shard"].update(url=str(tar)))
    _trust(scored, tar)


def _trust(scored: Path, tar: Path) -> None:
    """Say that the tar as it is now was scored."""
    _edit_stats(scored, lambda stats: stats.update(input=filtered_shards.identity(str(tar))))


def _edit_stats(scored: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    for path in scored.glob("*_stats.json"):
        stats = json.loads(path.read_text())
        edit(stats)
        path.write_text(json.dumps(stats))


def _rewrite(tar: Path, members: Iterable[tuple[str, bytes]], status: os.stat_result) -> None:
    write_tar(tar, members)
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))
