"""Samples on their way into a filtered data set: odd ones, kept keys, other kinds of sources."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_commands import all_files
from curate_datasets import img2dataset, jpegs, write_tar
from curate_filters import edit_stats, point_at, scored_data, trust, write, written
from curate_results import SCORE, drawn, grouped, write_results, write_shard, write_source

from aesthetic_client.errors import InputError
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.options import InputOptions
from aesthetic_curate.selection import Selection
from aesthetic_curate.shards import Shard


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    return scored_data(tmp_path_factory.mktemp("data"))


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
    point_at(tmp_path / "scored", tar)
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
    point_at(tmp_path / "scored", tar)
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
    point_at(tmp_path / "scored", tar)
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


def test_metadata_alone_needs_no_source(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "gone", shards=1, samples=21)
    write_results(tmp_path / "scored", tars)
    tars[0].unlink()
    stats = write(tmp_path / "scored", tmp_path / "out", metadata_only=True)
    assert all_files(tmp_path / "out") == {"_filter.json", "00000.parquet", "00000_stats.json"}
    assert pq.read_metadata(tmp_path / "out/00000.parquet").num_rows == stats[0]["samples"]
    assert write(tmp_path / "scored", tmp_path / "out", metadata_only=True) == []  # all done


def test_scores_of_embeddings_become_parquets_alone(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=2, samples=21)
    write_results(tmp_path / "scored", tars[:1], embeddings=True)
    edit_stats(tmp_path / "scored", lambda stats: stats["shard"].update(kind="embeddings"))
    write(tmp_path / "scored", tmp_path / "out")
    assert all_files(tmp_path / "out") == {"_filter.json", "00000.parquet", "00000_stats.json"}
    assert len(pq.read_table(tmp_path / "out/00000.parquet")["embedding"][0].as_py()) == 768
    write_shard(tmp_path / "scored", tars[1], drawn(20, 1))
    with pytest.raises(InputError, match=r"of images and of stored embeddings.*--metadata-only"):
        write(tmp_path / "scored", tmp_path / "both")
    write(tmp_path / "scored", tmp_path / "both", metadata_only=True)


def test_images_of_a_folder_become_a_tar(tmp_path: Path) -> None:
    images = jpegs(3)
    for name, image in zip(("b/dotted 1.2.jpg", "a.jpg", "c.JPG"), images, strict=True):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    (tmp_path / "photos/a.json").write_bytes(b'{"n": 1.50}')
    shard = Shard("photos", "folder", str(tmp_path / "photos"))
    write_source(tmp_path / "scored", shard, [6.0, 7.0, 5.0])
    (stats,) = write(tmp_path / "scored", tmp_path / "out")
    json_a = b'{"key": "000000000", "old_key": "a", "n": 1.50}'
    assert written(tmp_path / "out") == [
        ("000000000", {"jpg": images[1], "json": json_a}),
        ("000000001", {"jpg": images[0]}),
    ]
    table = pq.read_table(tmp_path / "out/00000.parquet")
    assert table["old_key"].to_pylist() == ["a", "b/dotted 1.2"]
    assert stats["notes"] == {"files": 3}


def test_a_slice_of_a_table_becomes_a_tar(tmp_path: Path) -> None:
    images = jpegs(5)
    keys = [f"https://images.test/{n}.jpg" for n in range(5)]
    table = pa.table({"id": keys, "picture": images, "n": list(range(5))})
    pq.write_table(table, tmp_path / "images.parquet", row_group_size=2)
    options = InputOptions(key_column="id", image_column="picture")
    shard = Shard("images-00001", "table", str(tmp_path / "images.parquet"), start=1, stop=5)
    write_source(tmp_path / "scored", shard, [6.0, None, 4.0, 7.0], options)
    write(tmp_path / "scored", tmp_path / "out")
    found = written(tmp_path / "out")
    assert [(key, files["jpg"]) for key, files in found] == [
        ("000000000", images[1]),
        ("000000001", images[4]),
    ]
    fields = [json.loads(files["json"]) for _, files in found]
    assert [one["id"] for one in fields] == ["000000000", "000000001"]  # the key column follows
    assert [one["old_key"] for one in fields] == [keys[1], keys[4]]
    table = pq.read_table(tmp_path / "out/00000.parquet")
    assert table["n"].to_pylist() == [1, 4] and table["old_key"].to_pylist() == [keys[1], keys[4]]


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
    trust(tmp_path / "scored", tars[0])
    with pytest.raises(UnreadableError, match=rf"sample \d+ was '00000\d+', and now 'x.*{advice}"):
        write(tmp_path / "scored", tmp_path / "out")
    _rewrite(tars[0], samples[1:], status)
    trust(tmp_path / "scored", tars[0])
    with pytest.raises(UnreadableError, match=rf"it had 20 samples, and has 19; {advice}"):
        write(tmp_path / "scored", tmp_path / "out")
    tars[0].unlink()
    with pytest.raises(UnreadableError, match=rf"00000.tar: there is no such file; {advice}"):
        write(tmp_path / "scored", tmp_path / "out")
    assert all_files(tmp_path / "out") == {"_filter.json"}


def _without_broken_json(tar: Path) -> Path:
    """A copy whose broken JSON is an empty object, for the maker of scored rows."""
    clean = tar.with_name("clean.tar")
    data = tar.read_bytes().replace(b"no json", b"{}     ")
    clean.write_bytes(data)
    return clean


def _rewrite(tar: Path, members: Iterable[tuple[str, bytes]], status: os.stat_result) -> None:
    write_tar(tar, members)
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))
