"""Shards of whatever the caller points at, with names that stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_datasets import img2dataset, photo, unit_embeddings, write_tar
from curate_shards import OPTIONS, names

from aesthetic_client.errors import InputError
from aesthetic_curate.errors import NoSamplesError, UnreadableError
from aesthetic_curate.inputs import InputOptions, find_shards
from aesthetic_curate.opening import open_source
from aesthetic_curate.shards import Shard

TINY = InputOptions(rows_per_shard=4)


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index}.jpg").write_bytes(photo(0))
    return folder


def write_table(path: Path, rows: int = 3, **columns: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = columns or {"url": [f"http://images.test/{row}.jpg" for row in range(rows)]}
    pq.write_table(pa.table(columns), path)
    return path


def test_a_folder_of_tars_and_their_parquets(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=3, samples=3)
    expected = [
        Shard(f"0000{index}", "tar", str(tar), metadata_url=str(tar.with_suffix(".parquet")))
        for index, tar in enumerate(tars)
    ]
    assert find_shards([str(tmp_path / "data")], OPTIONS) == expected
    assert find_shards([f"{tmp_path}/data/*.tar"], OPTIONS) == expected
    assert find_shards([f"{tmp_path}/data/*"], OPTIONS) == expected
    assert find_shards([f"{tmp_path}/data/{{00000..00002}}.tar"], OPTIONS) == expected
    assert find_shards([str(tar) for tar in reversed(tars)], OPTIONS) == expected
    # Parquets that are named without their tars are tables of URLs.
    kinds = {shard.kind for shard in find_shards([f"{tmp_path}/data/*.parquet"], OPTIONS)}
    assert kinds == {"table"}


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "a.tar", [])
    monkeypatch.chdir(tmp_path)
    expected = [Shard("a", "tar", str(tmp_path / "a.tar"))]
    for given in ("a.tar", "./a.tar", "*.tar", ".", f"file://{tmp_path}/a.tar", "{a,a}.tar"):
        assert find_shards([given], OPTIONS) == expected, given


def test_names_are_relative_to_the_common_folder(tmp_path: Path) -> None:
    for name in ("en/00000", "en/00001", "de/x/00000"):
        write_tar(tmp_path / "laion" / f"{name}.tar", [])
    write_tar(tmp_path / "other" / "00000.tar", [])
    assert names(tmp_path / "laion") == ["de/x/00000", "en/00000", "en/00001"]
    assert names(tmp_path / "laion" / "en") == ["00000", "00001"]
    assert names(f"{tmp_path}/laion/*/*.tar") == ["en/00000", "en/00001"]
    assert names(tmp_path / "laion" / "en", tmp_path / "laion" / "de") == [
        "de/x/00000",
        "en/00000",
        "en/00001",
    ]
    assert names(tmp_path / "laion/en/00001.tar", tmp_path / "other") == [
        "laion/en/00001",
        "other/00000",
    ]
    assert names(tmp_path / "laion", tmp_path / "laion/en/00000.tar") == names(tmp_path / "laion")


def test_names_are_unique(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [])
    write_tar(tmp_path / "a.tgz", [])
    write_tar(tmp_path / "b.tar.gz", [])
    assert names(tmp_path) == ["a-tar", "a-tgz", "b"]


def test_folders_of_images_are_cut(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 10)
    (whole,) = find_shards([str(photos)], OPTIONS)
    pieces = find_shards([str(photos)], TINY)
    assert replace(whole, keys_sha256=None) == Shard("photos", "folder", str(photos))
    assert [replace(piece, keys_sha256=None) for piece in pieces] == [
        Shard("photos-00000", "folder", str(photos), 0, 4),
        Shard("photos-00001", "folder", str(photos), 4, 8),
        Shard("photos-00002", "folder", str(photos), 8, 10),
    ]
    assert len({piece.keys_sha256 for piece in [whole, *pieces]}) == 4
    write_images(tmp_path / "more" / "deep", 2)
    assert names(photos, tmp_path / "more") == ["more", "photos"]
    assert names(f"{tmp_path}/*") == ["more", "photos"]
    (photos / "notes.txt").write_bytes(b"belongs to no image")
    with open_source(find_shards([str(photos)], OPTIONS)[0], OPTIONS) as source:
        assert len(source) == 10 and dict(source.notes) == {"ignored_members": 1}


def test_tables_are_cut_by_rows(tmp_path: Path) -> None:
    path = write_table(tmp_path / "urls.parquet", 9)
    assert find_shards([str(tmp_path)], OPTIONS) == [Shard("urls", "table", str(path))]
    assert [(s.name, s.start, s.stop) for s in find_shards([str(path)], TINY)] == [
        ("urls-00000", 0, 4),
        ("urls-00001", 4, 8),
        ("urls-00002", 8, 9),
    ]


def test_clip_retrieval_folders(tmp_path: Path) -> None:
    for part in ("img_emb", "text_emb", "metadata"):
        (tmp_path / part).mkdir()
    for index in (0, 1):
        for part in ("img", "text"):
            vectors = unit_embeddings(5).astype(np.float16)
            np.save(tmp_path / f"{part}_emb" / f"{part}_emb_{index}.npy", vectors)
        write_table(tmp_path / "metadata" / f"metadata_{index}.parquet", 5)
    expected = [
        Shard(
            f"img_emb/img_emb_{index}",
            "embeddings",
            str(tmp_path / f"img_emb/img_emb_{index}.npy"),
            metadata_url=str(tmp_path / f"metadata/metadata_{index}.parquet"),
        )
        for index in (0, 1)
    ]
    assert find_shards([str(tmp_path)], OPTIONS) == expected
    (alone,) = find_shards([str(tmp_path / "img_emb/img_emb_1.npy")], OPTIONS)
    assert alone.name == "img_emb_1"
    assert alone.metadata_url == expected[1].metadata_url
    tiny = find_shards([str(tmp_path / "img_emb")], InputOptions(rows_per_shard=1))
    assert [shard.name for shard in tiny] == ["img_emb_0", "img_emb_1"]


def test_arrays_are_cut_into_larger_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aesthetic_curate.inputs.EMBEDDINGS_FACTOR", 2)
    np.save(tmp_path / "e.npy", unit_embeddings(17))
    assert [(s.name, s.start, s.stop) for s in find_shards([str(tmp_path)], TINY)] == [
        ("e-00000", 0, 8),
        ("e-00001", 8, 16),
        ("e-00002", 16, 17),
    ]


def test_what_a_parquet_holds(tmp_path: Path) -> None:
    vectors: list[object] = [[0.5] * 4] * 2
    urls: list[object] = ["http://a.test/0.jpg"] * 2
    images: list[object] = [b"jpeg"] * 2
    path = tmp_path / "t.parquet"

    def kind(options: InputOptions = OPTIONS, **columns: list[object]) -> str:
        write_table(path, **columns)
        return find_shards([str(path)], options)[0].kind

    assert kind(url=urls) == "table"
    assert kind(image=images) == "table"
    assert kind(image_embedding=vectors) == "embeddings"
    assert kind(image_embedding=vectors, url=urls) == "embeddings"
    assert kind(image_embedding=vectors, image=images) == "table"
    assert kind(InputOptions(image_column="url"), image_embedding=vectors, url=urls) == "table"
    assert kind(InputOptions(embedding_column="v"), v=vectors, image=images) == "embeddings"
    with pytest.raises(InputError, match=r"no column of images or embeddings .*among a, b"):
        kind(a=[1], b=[2])
    with pytest.raises(InputError, match="no column 'nope'; it has a"):
        kind(InputOptions(image_column="nope"), a=[1])
    with pytest.raises(InputError, match="'a' holds int64; images are"):
        kind(InputOptions(image_column="a"), a=[1])


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"")
    (tmp_path / ".hidden.tar").write_bytes(b"")
    for given, reason in (
        ("empty", "the folder is empty"),
        ("texts", r"none of its 1 files is a \.tar"),
        ("*.tar", "matches nothing"),
        ("texts/*", r"matches no folder and no \.tar"),
        ("none.tar", "there is no such file or folder"),
    ):
        with pytest.raises(NoSamplesError, match=reason):
            names(tmp_path / given)
    write_tar(tmp_path / "0.tar", [])
    with pytest.raises(UnreadableError, match=r"2 of 3 files are not there, the first is .*1\.tar"):
        names(tmp_path / "{0..2}.tar")
    write_images(tmp_path, 1)
    with pytest.raises(InputError, match=r"0\.jpg: is no data set; .*`aesthetic score`"):
        names(tmp_path / "0.jpg")


def test_broken_tables_and_arrays_are_named(tmp_path: Path) -> None:
    for name, reason in (("a.parquet", "cannot be read as a parquet"), ("a.npy", r"is no \.npy")):
        (tmp_path / name).write_bytes(b"no such thing")
        with pytest.raises(UnreadableError, match=rf"{name}: {reason}"):
            names(tmp_path / name)
    np.save(tmp_path / "b.npy", np.zeros(5))
    with pytest.raises(InputError, match=r"b\.npy: expected .* \(n, 768\), got \(5,\)"):
        names(tmp_path / "b.npy")


def test_a_broken_file_among_others_is_a_shard(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", unit_embeddings(3))
    whole = (tmp_path / "a.npy").read_bytes()
    for name, data in (("b.npy", b""), ("c.npy", whole[:20]), ("d.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(data)
    shards = find_shards([str(tmp_path)], OPTIONS)
    assert shards == [
        Shard(name, "embeddings", str(path))
        for name, path in zip("abcd", sorted(tmp_path.iterdir()), strict=True)
    ]
    write_table(tmp_path / "e.parquet")
    kinds = {shard.name: shard.kind for shard in find_shards([str(tmp_path)], OPTIONS)}
    assert kinds == {**dict.fromkeys("abc", "embeddings"), "d": "table", "e": "table"}
    with pytest.raises(UnreadableError, match=r"b\.npy: is no \.npy array"):
        find_shards([f"{tmp_path}/[b-d].*"], OPTIONS)
