"""Metadata as columns: nothing lost, nothing mixed up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_datasets import img2dataset, write_tar

from aesthetic_client.errors import InputError
from aesthetic_curate.columns import renamed_metadata, scored_schema
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.metadata import columns_of, parse_record, typed_array
from aesthetic_curate.opening import open_source
from aesthetic_curate.options import InputOptions
from aesthetic_curate.shards import Shard

OPTIONS = InputOptions()


def read(
    path: Path, beside: Path | None = None, options: InputOptions = OPTIONS
) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """The metadata columns of a tar, and its notes."""
    shard = Shard("a", "tar", str(path), metadata_url=beside and str(beside))
    with open_source(shard, options) as source:
        tables = [chunk.metadata for chunk in source.chunks()]
        notes = dict(source.notes)
    found = [table for table in tables if table is not None]
    merged = pa.concat_tables(found, promote_options="permissive") if found else pa.table({})
    return merged.to_pydict(), notes


def tar_of(path: Path, records: Sequence[object], **texts: list[bytes]) -> Path:
    """A tar of jpg and json a sample, records as they are where they are bytes."""
    members = []
    for index, record in enumerate(records):
        members.append((f"{index:05d}.jpg", b""))
        data = record if isinstance(record, bytes) else json.dumps(record).encode()
        if record is not None:
            members.append((f"{index:05d}.json", data))
        members += [(f"{index:05d}.{name}", texts[name][index]) for name in texts]
    return write_tar(path, members)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 3], pa.int64(), [1, None, 3]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        (["a", None], pa.string(), ["a", None]),
        ([True, False], pa.bool_(), [True, False]),
        ([[1, 2], None, []], pa.list_(pa.int64()), [[1, 2], None, []]),
        ([None, None], pa.null(), [None, None]),
        ([1, "a", None], pa.string(), ["1", "a", None]),
        ([True, 1, 0.5], pa.string(), ["true", "1", "0.5"]),
        ([{"a": 1}, None], pa.string(), ['{"a": 1}', None]),
        ([{"a": "é"}, 5], pa.string(), ['{"a": "é"}', "5"]),
        ([[1], ["a"]], pa.string(), ["[1]", '["a"]']),
        ([[[1]], [[2, 3]]], pa.string(), ["[[1]]", "[[2, 3]]"]),
        ([2**70, 1], pa.string(), [str(2**70), "1"]),
        ([2**63, -1], pa.string(), [str(2**63), "-1"]),
        (["\ud800", "b"], pa.string(), ["\\ud800", "b"]),
    ],
)
def test_types_of_columns(values: list[Any], kind: pa.DataType, expected: list[Any]) -> None:
    array = typed_array(values)
    assert array.type == kind
    assert array.to_pylist() == expected


def test_json_of_every_kind(tmp_path: Path) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    records = [{"a": 1, "b": {"c": 2}}, b"{broken", b"[1, 2]", None, b"\xff\xfe", deep, {"a": "x"}]
    columns, notes = read(tar_of(tmp_path / "a.tar", records))
    none = [None] * 3
    assert columns == {
        "a": ["1", None, None, *none, "x"],
        "b": ['{"c": 2}', None, None, *none, None],
        "json": [None, None, [1, 2], *none, None],
    }
    assert notes == {"bad_metadata": 3}


def test_text_is_the_same_whatever_else_its_chunk_holds() -> None:
    (alone,) = columns_of([{"a": "text"}]).values()
    (mixed,) = columns_of([{"a": "text"}, {"a": 1}]).values()
    assert alone[0] == mixed[0]
    assert parse_record(b'"text"') == {"json": "text"}


def test_captions_and_fields_of_one_name(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path / "a.tar",
        [{"txt": "field", "n": 1}, {"n": 2}],
        txt=[b"file", "é".encode()],
        caption=[b"caf\xe9", b""],
    )
    columns, notes = read(path)
    assert columns == {
        "json_txt": ["field", None],
        "n": [1, 2],
        "txt": ["file", "é"],
        "caption": ["caf\\xe9", ""],
    }
    assert notes == {}


def test_names_that_are_ours_become_source_names(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [{"key": "k", "status": "success", "source_key": 1}])
    with open_source(Shard("a", "tar", str(path)), OPTIONS) as source:
        (chunk,) = source.chunks()
    taken = scored_schema(["aesthetic_score"], None).names
    renamed = renamed_metadata(chunk.metadata, taken)
    assert renamed.to_pylist() == [
        {"source_key": "k", "source_status": "success", "source_source_key": 1}
    ]


def test_img2dataset_tars_keep_their_parquets_columns(tmp_path: Path) -> None:
    (tar,) = img2dataset(tmp_path, shards=1, samples=600)
    parquet = tar.with_suffix(".parquet")
    columns, notes = read(tar, parquet)
    rows = pq.read_table(parquet).to_pylist()[:-1]
    assert len(columns["url"]) == 599
    for name in rows[0]:
        assert columns[name] == [row[name] for row in rows], name
    assert columns["txt"] == [row["caption"] for row in rows]
    assert notes == {"metadata_only": 1}


def test_the_parquet_goes_before_the_json(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", [{"n": index, "j": index} for index in range(4)])
    parquet = tmp_path / "a.parquet"
    # In another order; one row too many, and none for 00002.
    keys = ["00003", "99999", "00000", "00001"]
    pq.write_table(pa.table({"key": keys, "n": [30, 99, 0, 10]}), parquet, row_group_size=1)
    columns, notes = read(tar, parquet)
    assert columns == {
        "key": ["00000", "00001", None, "00003"],
        "n": [0, 10, 2, 30],  # the sample without a row keeps its json's
        "j": [0, 1, 2, 3],
    }
    assert notes == {"metadata_only": 1, "metadata_missing": 1}


def test_keys_with_folders_match_by_their_last_part(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("./part/7.jpg", b""), ("./part/8.jpg", b"")])
    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [8, 7], "n": [80, 70]}), parquet)
    assert read(tar, parquet) == ({"id": [7, 8], "n": [70, 80]}, {})


def test_a_parquet_of_other_samples_is_noted(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", [{"n": 1}])
    parquet = tmp_path / "a.parquet"
    for table in ({"key": ["other"], "m": [5]}, {"no_key": ["00000"], "m": [5]}):
        pq.write_table(pa.table(table), parquet)
        expected = {"metadata_only": 1, "metadata_missing": 1}
        assert read(tar, parquet) == ({"n": [1]}, expected)
    named = InputOptions(key_column="no_key")
    assert read(tar, parquet, named)[0] == {"no_key": ["00000"], "m": [5], "n": [1]}
    with pytest.raises(InputError, match=r"a\.parquet: has no column 'none'; it has no_key, m"):
        read(tar, parquet, InputOptions(key_column="none"))


def test_a_broken_parquet_is_named(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", [{"n": 1}])
    parquet = tmp_path / "a.parquet"
    parquet.write_bytes(b"no")
    with pytest.raises(UnreadableError, match=r"a\.parquet: cannot be read as a parquet"):
        read(tar, parquet)


def test_samples_without_metadata_have_none(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", [None, None])
    assert read(tar) == ({}, {})
    bad = tar_of(tmp_path / "b.tar", [b"{", b"{"])
    assert read(bad) == ({}, {"bad_metadata": 2})


def test_repeated_keys_share_a_row(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("0.jpg", b"a"), ("0.jpg", b"b"), ("1.jpg", b"c")])
    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.table({"key": ["0", "1"], "n": [5, 6]}), parquet)
    columns, notes = read(tar, parquet)
    assert columns == {"key": ["0", "0", "1"], "n": [5, 5, 6]}
    assert notes == {"duplicate_keys": 1}


def test_repeated_keys_take_their_rows_in_order(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("0.jpg", b"a"), ("0.jpg", b"b"), ("1.jpg", b"c")])
    parquet = tmp_path / "a.parquet"
    keys = pa.array(["1", "0", "0"]).dictionary_encode()
    pq.write_table(pa.table({"key": keys, "n": [6, 5, 7]}), parquet)
    columns, notes = read(tar, parquet)
    assert columns["n"] == [5, 7, 6]
    assert notes == {"duplicate_keys": 1}
