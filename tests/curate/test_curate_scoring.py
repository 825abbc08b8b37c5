"""The shard function over a scorer that does as told: what is lost, kept and refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from curate_commands import all_files
from curate_datasets import photo, write_tar

from aesthetic_client.contract import DEFAULT_HEAD
from aesthetic_curate.config import Job, ScoreConfig
from aesthetic_curate.errors import StoppedError
from aesthetic_curate.options import InputOptions
from aesthetic_curate.outcomes import Outcome
from aesthetic_curate.runs import plan
from aesthetic_curate.samples import Sample
from aesthetic_curate.scoring import Unread, score_shard, try_shard
from aesthetic_curate.shards import Shard


class Told:
    """Scores by a rule: a sample to a score, or None for a refusal."""

    refusals = 0
    blocks: Any = None

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def score(self, samples: Iterable[Sample]) -> Iterator[Outcome]:
        for sample in samples:
            if sample.image is None:
                yield Outcome(sample, sample.status, sample.error)
            elif (score := self.rule(sample)) is None:
                yield Outcome(sample, "refused", "CUDA out of memory")
            else:
                yield Outcome(sample, "ok", "", {DEFAULT_HEAD.name: score})


def job(out: Path, **config: Any) -> Job:
    return Job(str(out), ("host:8001",), ScoreConfig((DEFAULT_HEAD,), **config), InputOptions())


def tars(folder: Path, count: int, members: list[str]) -> list[Shard]:
    image = photo(0)
    found = []
    for number in range(count):
        path = folder / f"{number}.tar"
        write_tar(path, [(name, image) for name in members])
        found.append(Shard(str(number), "tar", str(path)))
    return found


def test_a_server_that_refuses_everything_stops_the_run(tmp_path: Path) -> None:
    """Also over small shards, and where samples without an image lie between."""
    members = [f"{n:02d}.{'txt' if n % 2 else 'jpg'}" for n in range(40)]
    shards = tars(tmp_path / "in", 4, members)
    scorer, settings = Told(lambda sample: None), job(tmp_path / "out")
    done = [score_shard(shard, settings, scorer) for shard in shards[:2]]  # type: ignore[arg-type]
    assert [one["statuses"] for one in done] == [{"no_image": 20, "refused": 20}] * 2
    with pytest.raises(StoppedError, match=r"refused 50 images .*CUDA out of memory"):
        score_shard(shards[2], settings, scorer)  # type: ignore[arg-type]
    assert not list((tmp_path / "out").glob("*2*"))


def test_single_refusals_are_rows(tmp_path: Path) -> None:
    (shard,) = tars(tmp_path / "in", 1, [f"{n:03d}.jpg" for n in range(300)])
    scorer = Told(lambda sample: None if int(sample.key) % 3 else 5.0)
    stats = score_shard(shard, job(tmp_path / "out"), scorer)  # type: ignore[arg-type]
    assert stats["statuses"] == {"ok": 100, "refused": 200}


def test_an_input_that_is_away_leaves_its_result_done(tmp_path: Path) -> None:
    (shard,) = tars(tmp_path / "in", 1, ["a.jpg"])
    settings, scorer = job(tmp_path / "out"), Told(lambda sample: 5.0)
    score_shard(shard, settings, scorer)  # type: ignore[arg-type]
    before = all_files(tmp_path / "out")
    (tmp_path / "in" / "0.tar").rename(tmp_path / "away.tar")
    assert [one.name for one in plan([shard], settings).todo] == ["0"]
    assert isinstance(try_shard(shard, settings, scorer), Unread)  # type: ignore[arg-type]
    assert all_files(tmp_path / "out") == before
    (tmp_path / "away.tar").rename(tmp_path / "in" / "0.tar")
    assert plan([shard], settings).todo == []


@pytest.mark.parametrize(("threshold", "kept"), [(5.0, 1), (9.0, 0)])
def test_the_filtered_tar_takes_scores_from_the_threshold_up(
    threshold: float, kept: int, tmp_path: Path
) -> None:
    (shard,) = tars(tmp_path / "in", 1, ["a.jpg", "b.jpg"])
    scorer = Told(lambda sample: 5.0 if sample.key == "a" else 4.999)
    stats = score_shard(shard, job(tmp_path / "out", tar_min=threshold), scorer)  # type: ignore[arg-type]
    assert (stats["kept"], stats["tar"]) == (kept, True)
    assert (tmp_path / "out" / "0.tar").stat().st_size == 10_240
