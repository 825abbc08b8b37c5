"""Scored folders: what belongs together, what does not, and the rows that are read of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from curate_datasets import img2dataset
from curate_results import SCORE, drawn, write_results, write_shard

from aesthetic_client.contract import HEADS
from aesthetic_client.errors import InputError
from aesthetic_curate.errors import MixedResultsError, NoSamplesError, UnreadableError
from aesthetic_curate.results import Results

FURTHER = HEADS[1]


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return img2dataset(tmp_path_factory.mktemp("data"), shards=3, samples=21)


def test_totals_are_those_of_all_rows(tars: list[Path], tmp_path: Path) -> None:
    scores = [{SCORE: drawn(20, n), FURTHER.output: drawn(20, 10 + n)} for n in range(3)]
    write_results(tmp_path, tars, scores)
    results = Results.open(str(tmp_path))
    assert [shard.name for shard in results.shards] == ["00000", "00001", "00002"]
    assert results.heads == {SCORE: HEADS[0].name, FURTHER.output: FURTHER.name}
    assert results.samples == 60
    assert results.statuses == Counter(ok=57, bad_image=3)
    assert not results.seeded
    for output in results.heads:
        every = np.array([v for one in scores for v in one[output] if v is not None], np.float32)
        stats = results.score_stats[output]
        assert stats.count == 57 and sum(stats.bins.values()) == 57
        assert stats.mean == pytest.approx(every.mean(dtype=np.float64), abs=1e-9)
        assert stats.std == pytest.approx(every.std(dtype=np.float64), abs=1e-9)
        assert (stats.low, stats.high) == (every.min(), every.max())
        assert stats.bins[54] == int(((every >= 5.4) & (every < 5.5)).sum())


def test_names_keep_their_folders(tars: list[Path], tmp_path: Path) -> None:
    write_shard(tmp_path, tars[0], drawn(20, 0), name="laion/part-0")
    write_shard(tmp_path, tars[1], drawn(20, 1), name="coyo/00001")
    results = Results.open(str(tmp_path))
    assert [shard.name for shard in results.shards] == ["coyo/00001", "laion/part-0"]
    assert results.columns(results.shards[0], ["key"]).column(0)[0].as_py() == "000010000"


def test_heads_go_by_both_names(tars: list[Path], tmp_path: Path) -> None:
    write_results(tmp_path, tars, [{FURTHER.output: drawn(20, 0)}] * 3)
    results = Results.open(str(tmp_path))
    assert results.output(FURTHER.name) == results.output(FURTHER.output) == FURTHER.output
    with pytest.raises(InputError, match=f"no scores of 'aesthetic_score' .* has {FURTHER.output}"):
        results.output(SCORE)


def test_random_weights_are_known(tars: list[Path], tmp_path: Path) -> None:
    write_results(tmp_path, tars, seeded=True)
    assert Results.open(str(tmp_path)).seeded


@pytest.mark.parametrize("row_group", [4, 7, 1000])
def test_rows_are_read_by_their_row_groups(
    tars: list[Path], tmp_path: Path, row_group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path, tars, embeddings=True)
    table = pq.read_table(tmp_path / "00001.parquet")
    pq.write_table(table, tmp_path / "00001.parquet", row_group_size=row_group)
    results = Results.open(str(tmp_path))
    read: list[int] = []
    whole = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, group: int, **options: object) -> object:
        read.append(group)
        return whole(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    rows = np.array([0, 3, 8, 9, 19], np.uint32)
    assert results.rows(results.shards[1], rows).equals(table.take(rows))
    assert read == sorted({int(row) // row_group for row in rows})
    some = results.rows(results.shards[1], rows, [SCORE, "caption"])
    assert some.equals(table.select([SCORE, "caption"]).take(rows))
    assert results.rows(results.shards[1], rows[:0]).equals(table.slice(0, 0))


def test_scores_are_nan_where_there_are_none(tars: list[Path], tmp_path: Path) -> None:
    write_results(tmp_path, tars)
    results = Results.open(str(tmp_path))
    scores = results.scores(results.shards[0], SCORE)
    assert scores.dtype == np.float32
    assert np.flatnonzero(np.isnan(scores)).tolist() == [16]


def test_a_folder_at_a_url(tars: list[Path], tmp_path: Path) -> None:
    write_results(tmp_path, tars, embeddings=True)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/scored-results", recursive=True)
    results, local = Results.open("memory://scored-results"), Results.open(str(tmp_path))
    assert results.samples == 60
    rows = np.array([2, 5], np.uint32)
    assert results.rows(results.shards[2], rows).equals(local.rows(local.shards[2], rows))


def test_unfinished_shards_are_named(tars: list[Path], tmp_path: Path) -> None:
    write_results(tmp_path, tars)
    (tmp_path / "00001_stats.json").unlink()
    results = Results.open(str(tmp_path))
    assert results.unfinished == ["00001"]
    assert [shard.name for shard in results.shards] == ["00000", "00002"]


def test_different_settings_do_not_mix(tars: list[Path], tmp_path: Path) -> None:
    write_results(tmp_path, tars[:2], config={"embedding": None})
    write_results(
        tmp_path, tars[2:], [drawn(20, 2)], fingerprint="f" * 64, config={"embedding": "float16"}
    )
    with pytest.raises(MixedResultsError) as raised:
        Results.open(str(tmp_path))
    assert str(raised.value) == (
        f"{tmp_path} holds shards of different settings: 2 (such as 00000) of the settings "
        "01234567 and 1 (such as 00002) of the settings ffffffff; they differ in config.embedding. "
        "Run the score command again with the settings that you want, which redoes the others, or "
        "give each settings a folder of their own"
    )


def test_what_differs_of_the_models_is_named(tars: list[Path], tmp_path: Path) -> None:
    def scored_by(tar: Path, fingerprint: str, provenance: dict[str, object]) -> None:
        stats = write_shard(tmp_path, tar, drawn(20, 0), fingerprint=fingerprint)
        file = tmp_path / f"{tar.stem}_stats.json"
        file.write_text(json.dumps(stats | {"provenance": provenance}))

    tower = {"precision": "int8", "calibration_sha256": "a" * 64, "exported": "today"}
    scored_by(tars[0], "a" * 64, {"clip_image": tower})
    other = tower | {"calibration_sha256": "b" * 64, "exported": "yesterday"}
    scored_by(tars[1], "b" * 64, {"clip_image": other})
    with pytest.raises(MixedResultsError) as raised:
        Results.open(str(tmp_path))
    assert "; they differ in provenance.clip_image.calibration_sha256. Run" in str(raised.value)
    scored_by(tars[1], "b" * 64, {})  # by the heads alone
    with pytest.raises(MixedResultsError, match=r"; they differ in provenance\.clip_image\. Run"):
        Results.open(str(tmp_path))


def test_one_input_under_two_names_does_not_mix(tars: list[Path], tmp_path: Path) -> None:
    write_results(tmp_path, tars)
    write_shard(tmp_path, tars[1], drawn(20, 1), name="data/00001")
    with pytest.raises(MixedResultsError, match=r"1 input\(s\) twice.* as 00001 and data/00001"):
        Results.open(str(tmp_path))


def test_overlapping_rows_of_one_input_do_not_mix(tars: list[Path], tmp_path: Path) -> None:
    def cut(name: str, start: int, stop: int | None) -> None:
        stats = write_shard(tmp_path, tars[0], drawn(20, 0), name=name)
        stats["shard"] |= {"start": start, "stop": stop}
        (tmp_path / f"{name}_stats.json").write_text(json.dumps(stats))

    cut("b-00000", 0, 10)
    cut("b-00001", 10, 20)
    assert len(Results.open(str(tmp_path)).shards) == 2
    cut("b", 0, None)  # of before the input grew
    with pytest.raises(MixedResultsError, match=r"as b and b-00000: .*remove the _stats\.json"):
        Results.open(str(tmp_path))
    (tmp_path / "b_stats.json").unlink()
    cut("c", 5, 10)
    with pytest.raises(MixedResultsError, match=r"as b-00000 and c: "):
        Results.open(str(tmp_path))


def test_folders_that_are_no_results(tars: list[Path], tmp_path: Path) -> None:
    with pytest.raises(NoSamplesError, match=r"no scores in .*nothing: it has no \*_stats.json"):
        Results.open(str(tmp_path / "nothing"))
    with pytest.raises(UnreadableError, match="is not of `aesthetic curate score`"):
        Results.open(str(tars[0].parent))  # img2dataset's own stats


def test_broken_files_say_what_to_do(tars: list[Path], tmp_path: Path) -> None:
    write_results(tmp_path, tars)
    results = Results.open(str(tmp_path))
    shards = results.shards
    advice = r"remove 0000\d_stats.json and run the score command again, which redoes it"
    pq.write_table(pq.read_table(tmp_path / "00000.parquet").slice(1), tmp_path / "00000.parquet")
    with pytest.raises(
        UnreadableError, match=f"19 rows, and its stats file speaks of 20: {advice}"
    ):
        results.scores(shards[0], SCORE)
    (tmp_path / "00001.parquet").write_bytes(b"PAR1 not a parquet")
    with pytest.raises(UnreadableError, match=rf"00001.parquet is broken .*{advice}"):
        results.scores(shards[1], SCORE)
    (tmp_path / "00002.parquet").unlink()
    with pytest.raises(UnreadableError, match=r"00002\.parquet: there is no such file"):
        results.scores(shards[2], SCORE)
    (tmp_path / "00002_stats.json").write_text(json.dumps({"format": 9, "shard": {}}))
    with pytest.raises(UnreadableError, match="format 9, and this version reads 1"):
        Results.open(str(tmp_path))
    (tmp_path / "00002_stats.json").write_text("{")
    with pytest.raises(UnreadableError, match=r"00002_stats\.json is no JSON"):
        Results.open(str(tmp_path))
