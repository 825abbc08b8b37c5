"""Scores in a data set's own parquets: joined by id, no row lost, nothing else changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_commands import curate
from curate_datasets import img2dataset
from curate_results import SCORE, drawn, write_results, write_shard

from aesthetic_client.contract import HEADS
from aesthetic_client.errors import InputError
from aesthetic_curate.errors import OutputError, UnreadableError
from aesthetic_curate.results import Results
from aesthetic_curate.save_metadata import Annotated, annotate, find_targets

FURTHER = HEADS[1].output


def save(
    scored: Path,
    *,
    dataset: Path | None = None,
    output: Path | None = None,
    outputs: tuple[str, ...] = (SCORE,),
    **options: Any,
) -> list[Annotated]:
    results = Results.open(str(scored))
    folders = (os.fspath(dataset) if dataset else None, os.fspath(output) if output else None)
    targets = find_targets(results, *folders)
    return [annotate(results, target, outputs=outputs, **options) for target in targets]


def changed(path: Path, **columns: Any) -> pa.Table:
    """Rewrite a parquet with some columns replaced; what it holds then."""
    table = pq.read_table(path)
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array(values))
    pq.write_table(table, path)
    return table


def test_every_row_stays_and_the_scored_ones_have_scores(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=2, samples=21)
    before = [pq.read_table(tar.with_suffix(".parquet")) for tar in tars]
    scores = [drawn(20, 4), drawn(20, 5)]
    write_results(tmp_path / "scored", tars, scores)
    done = save(tmp_path / "scored")
    assert [(one.rows, one.matched, one.left_over) for one in done] == [(21, 20, 0)] * 2
    for tar, rows, values in zip(tars, before, scores, strict=True):
        after = pq.read_table(tar.with_suffix(".parquet"))
        assert after.column_names == [*rows.column_names, SCORE]
        assert after.drop_columns([SCORE]).equals(rows)
        assert after[SCORE].type == pa.float32()
        assert after[SCORE].to_pylist() == [*values, None]  # the last one failed to download


def test_saving_again_changes_no_byte_and_new_scores_replace(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    write_results(tmp_path / "scored", tars)
    parquet = tars[0].with_suffix(".parquet")
    save(tmp_path / "scored")
    first = parquet.read_bytes()
    save(tmp_path / "scored")
    assert parquet.read_bytes() == first
    write_results(tmp_path / "new", tars, [{SCORE: drawn(20, 9), FURTHER: drawn(20, 10)}])
    save(tmp_path / "new", outputs=(FURTHER, SCORE))
    table = pq.read_table(parquet)
    assert table.column_names[-2:] == [SCORE, FURTHER]
    assert table[SCORE].to_pylist() == [*drawn(20, 9), None]


def test_rows_of_any_order_are_joined_by_id_and_keep_it(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    parquet = tars[0].with_suffix(".parquet")
    order = np.random.default_rng(1).permutation(21)
    shuffled = pq.read_table(parquet).take(order)
    pq.write_table(shuffled, parquet)
    write_results(tmp_path / "scored", tars, [drawn(20, 4)])
    save(tmp_path / "scored")
    after = pq.read_table(parquet)
    assert after["key"].equals(shuffled["key"])
    expected = [*drawn(20, 4), None]
    assert after[SCORE].to_pylist() == [expected[row] for row in order]


@pytest.mark.parametrize(
    "kind", ["numbers", "floats", "short text", "large text", "with folders", "of a dictionary"]
)
def test_ids_of_07_are_numbers_or_text(tmp_path: Path, kind: str) -> None:
    tars = img2dataset(tmp_path / "data", shards=2, samples=21)
    for shard, tar in enumerate(tars):
        numbers = [shard * 10_000 + index for index in range(21)]
        ids = {
            "numbers": pa.array(numbers, pa.int64()),
            "floats": pa.array(numbers, pa.float64()),
            "with folders": pa.array([f"part/{number:09d}" for number in numbers]),
            "of a dictionary": pa.array([str(number) for number in numbers]).dictionary_encode(),
            "short text": pa.array([str(number) for number in numbers]),
            "large text": pa.array([f"{number:09d}" for number in numbers], pa.large_string()),
        }[kind]
        path = tar.with_suffix(".parquet")
        table = changed(path, key=ids)
        names = ["image_id" if name == "key" else name for name in table.column_names]
        pq.write_table(table.rename_columns(names), path)
    write_results(tmp_path / "scored", tars, [drawn(20, 4), drawn(20, 5)])
    with pytest.raises(InputError, match=r"has no column key or id .*; it has .*image_id.*--id"):
        save(tmp_path / "scored")
    done = save(tmp_path / "scored", id_column="image_id")
    assert [one.matched for one in done] == [20, 20]
    assert pq.read_table(tars[1].with_suffix(".parquet"))[SCORE].to_pylist() == [
        *drawn(20, 5),
        None,
    ]


def test_embeddings_come_along_as_07_named_them(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    write_results(tmp_path / "scored", tars, embeddings=True)
    save(tmp_path / "scored", embedding_column="image_embedding")
    table = pq.read_table(tars[0].with_suffix(".parquet"))
    assert table["image_embedding"].type == pa.list_(pa.float32())
    frame = table.to_pandas()
    scored = pq.read_table(tmp_path / "scored/00000.parquet")["embedding"]
    np.testing.assert_array_equal(frame["image_embedding"][3], scored[3].as_py())
    assert frame["image_embedding"][16] is None and frame["image_embedding"][20] is None


def test_copies_leave_the_data_set_alone(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=2, samples=21)
    before = [tar.with_suffix(".parquet").read_bytes() for tar in tars]
    write_results(tmp_path / "scored", tars)
    done = save(tmp_path / "scored", output=tmp_path / "copies")
    assert [one.path for one in done] == [f"{tmp_path}/copies/{tar.stem}.parquet" for tar in tars]
    assert [tar.with_suffix(".parquet").read_bytes() for tar in tars] == before
    assert pq.read_table(tmp_path / "copies/00001.parquet").num_rows == 21


def test_copies_of_several_folders_stay_apart(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        (tar,) = img2dataset(tmp_path / name, shards=1, samples=21)
        write_shard(tmp_path / "scored", tar, drawn(20, number), name=f"{name}/00000")
    done = save(tmp_path / "scored", output=tmp_path / "copies")
    assert [one.path for one in done] == [f"{tmp_path}/copies/{n}/00000.parquet" for n in "ab"]
    after = pq.read_table(tmp_path / "copies/b/00000.parquet")
    assert after[SCORE].to_pylist() == [*drawn(20, 1), None]


def test_an_empty_shard_leaves_its_rows_without_scores(tmp_path: Path) -> None:
    (tar,) = img2dataset(tmp_path / "data", shards=1, samples=1)  # one failed download alone
    write_results(tmp_path / "scored", [tar], embeddings=True)
    (done,) = save(tmp_path / "scored", embedding_column="image_embedding")
    assert (done.rows, done.matched, done.left_over) == (1, 0, 0)
    table = pq.read_table(tar.with_suffix(".parquet"))
    assert table[SCORE].to_pylist() == table["image_embedding"].to_pylist() == [None]


def test_a_data_set_elsewhere_is_named(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    (tmp_path / "metadata").mkdir()
    tars[0].with_suffix(".parquet").rename(tmp_path / "metadata/00000.parquet")
    write_results(tmp_path / "scored", tars)
    with pytest.raises(InputError, match=r"no parquet lies beside .*00000\.tar: .*--dataset"):
        save(tmp_path / "scored")
    assert save(tmp_path / "scored", dataset=tmp_path / "metadata")[0].matched == 20
    with pytest.raises(UnreadableError, match=r"00000\.parquet: there is no such file"):
        save(tmp_path / "scored", dataset=tmp_path / "nowhere")


def test_the_layout_and_the_pandas_notes_stay(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    parquet = tars[0].with_suffix(".parquet")
    frame = pq.read_table(parquet).to_pandas().set_index("url", drop=False)
    frame.to_parquet(parquet, compression="gzip", row_group_size=8)
    write_results(tmp_path / "scored", tars)
    save(tmp_path / "scored")
    metadata = pq.read_metadata(parquet)
    assert [metadata.row_group(at).num_rows for at in range(3)] == [8, 8, 5]
    assert metadata.row_group(0).column(0).compression == "GZIP"
    after = pq.read_table(parquet).to_pandas()
    assert after.index.equals(frame.index) and SCORE in after.columns


def test_ids_of_another_data_set_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    parquet = tars[0].with_suffix(".parquet")
    changed(parquet, key=[f"other-{n}" for n in range(21)])
    before = parquet.read_bytes()
    write_results(tmp_path / "scored", tars)
    with pytest.raises(InputError, match="no id in its column key is the key of a scored sample"):
        save(tmp_path / "scored")
    assert parquet.read_bytes() == before


def test_the_input_of_the_scores_is_not_rewritten(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    write_results(tmp_path / "scored", tars)
    path = tmp_path / "scored/00000_stats.json"
    stats = json.loads(path.read_text())
    stats["shard"] |= {
        "kind": "table",
        "url": str(tars[0].with_suffix(".parquet")),
        "metadata_url": None,
    }
    path.write_text(json.dumps(stats))
    with pytest.raises(InputError, match=r"is the input of its own scores.*-o DIR"):
        save(tmp_path / "scored")
    assert save(tmp_path / "scored", output=tmp_path / "copies")[0].matched == 20


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    parquet = tars[0].with_suffix(".parquet")
    before = parquet.read_bytes()
    write_results(tmp_path / "scored", tars)

    def full(table: pa.Table, path: Path, **options: Any) -> None:
        path.write_bytes(b"PAR1 half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        with pytest.raises(OutputError, match="the disk is full"):
            save(tmp_path / "scored")
    assert parquet.read_bytes() == before
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        "00000.tar",
        "00000.parquet",
        "00000_stats.json",
    }


def test_the_command(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=2, samples=21)
    scores = [{SCORE: drawn(20, 4), FURTHER: drawn(20, 5)}] * 2
    write_results(tmp_path / "scored", tars, scores, embeddings=True, seeded=True)
    done = curate("annotate", tmp_path / "scored", "-o", tmp_path / "all")
    assert (done.returncode, done.stderr) == (
        0,
        "WARNING: the model has weights: seeded, scores are meaningless\n",
    )
    assert done.stdout == f"{SCORE}, {FURTHER}, image_embedding: 40 of 42 rows in 2 parquets\n"
    names = pq.read_schema(tmp_path / "all/00001.parquet").names
    assert names[-3:] == [SCORE, FURTHER, "image_embedding"]
    done = curate(
        *("annotate", tmp_path / "scored", "-o", tmp_path / "one"),
        *("--columns", f"{HEADS[1].name},embedding", "--embedding-column", "clip"),
    )
    assert done.returncode == 0, done.stderr
    names = pq.read_schema(tmp_path / "one/00000.parquet").names
    assert names[-2:] == [FURTHER, "clip"] and SCORE not in names
    done = curate("annotate", tmp_path / "scored", "--columns", "beauty")
    assert done.returncode == 2 and "no scores of 'beauty'" in done.stderr
