"""The folder of a filtered data set: redone where needed, never mixed, never over foreign data."""

from __future__ import annotations

import errno
from pathlib import Path

import fsspec
import numpy as np
import pytest
from curate_commands import all_files, hashes
from curate_datasets import img2dataset
from curate_filters import GOOD, scored_data, write
from curate_results import SCORE, drawn, write_results

from aesthetic_client.errors import InputError
from aesthetic_curate import filtered_shards
from aesthetic_curate.errors import NoSamplesError, OutputError
from aesthetic_curate.filter_jobs import Settings
from aesthetic_curate.filter_runs import run
from aesthetic_curate.resharding import plan, prepare
from aesthetic_curate.results import Results
from aesthetic_curate.selection import Selection, select


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    return scored_data(tmp_path_factory.mktemp("data"))


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


def test_scores_and_output_at_urls(
    data: tuple[list[Path], Path], tmp_path: Path, memory: str
) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(f"{data[1]}/", f"{memory}/scored/", recursive=True)
    results = Results.open(f"{memory}/scored")
    assert results.samples == 160
    planned = plan(results, GOOD, select(results, GOOD), f"{memory}/out", Settings(30))
    todo = prepare(planned)
    assert len(list(run(planned.job, todo.shards))) == len(planned.shards) == 3
    assert prepare(planned).shards == []
    fs.get(f"{memory}/out/", f"{tmp_path}/out/", recursive=True)
    write(data[1], tmp_path / "local", samples_per_shard=30)
    for suffix in (".tar", ".parquet"):
        assert hashes(tmp_path / "out", suffix) == hashes(tmp_path / "local", suffix)
    other = plan(results, GOOD, select(results, GOOD), f"{memory}/out", Settings(31))
    assert prepare(other, overwrite=True).removed == 9
    assert [name.rpartition("/")[2] for name in fs.find(f"{memory}/out")] == ["_filter.json"]
    with pytest.raises(InputError, match="choose a folder apart from the scores"):
        prepare(plan(results, GOOD, select(results, GOOD), f"{memory}/scored/out", Settings(30)))
