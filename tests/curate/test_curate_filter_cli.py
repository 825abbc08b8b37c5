"""`aesthetic curate filter`, the real command: killed, interrupted, run again."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from curate_commands import all_files, curate, hashes, started
from curate_datasets import img2dataset
from curate_results import SCORE, drawn, write_results

from aesthetic_client.contract import HEADS

OTHER = HEADS[1]
SHARDS, SAMPLES = 4, 200


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of four tars of 200 samples, with two heads."""
    folder = tmp_path_factory.mktemp("filter")
    tars = img2dataset(folder / "data", shards=SHARDS, samples=SAMPLES + 1)
    scores = [
        {SCORE: drawn(SAMPLES, n), OTHER.output: drawn(SAMPLES, 10 + n)} for n in range(SHARDS)
    ]
    write_results(folder / "scored", tars, scores)
    return folder / "scored"


@pytest.fixture(scope="module")
def whole(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = curate("filter", scored, "-o", out, "--min", "5.2", "--samples-per-shard", "17")
    assert done.returncode == 0, done.stderr
    return out


def values(scored: Path, output: str = SCORE) -> list[float]:
    tables = [pq.read_table(path, columns=[output]) for path in sorted(scored.glob("*.parquet"))]
    return [value for table in tables for value in table[output].to_pylist() if value is not None]


def test_what_it_says(scored: Path, whole: Path, tmp_path: Path) -> None:
    kept = sum(value >= 5.2 for value in values(scored))
    assert sum(pq.read_metadata(path).num_rows for path in whole.glob("*.parquet")) == kept
    arguments = ("filter", scored, "-o", whole, "--min", "5.2", "--samples-per-shard", "17")
    before = hashes(whole, "")
    done = curate(*arguments)
    shards = -(-kept // 17)
    total = SHARDS * SAMPLES
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"{kept} of {total} samples ({len(values(scored))} scored) are kept",
        f"{shards} shards are done already",
    ]
    assert done.stdout == f"{shards} shards, {kept} samples: {whole}\n"
    assert hashes(whole, "") == before


def test_killed_runs_end_as_an_undisturbed_one(scored: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("filter", scored, "-o", out, "--min", "5.2", "--samples-per-shard", "17")
    expected = hashes(whole, "")
    moments = random.Random(5)
    killed = 0
    for kill in range(5):
        target = len(expected) * (kill + moments.random()) / 6  # files, the growing number of them
        run = started(*arguments)
        while run.poll() is None and len(all_files(out)) < target:
            time.sleep(0.005)
        time.sleep(moments.random() * 0.05)
        run.kill()
        run.communicate()
        killed += run.returncode == -signal.SIGKILL
        for name in all_files(out):  # nothing half-written bears its name
            if name.endswith("_stats.json"):
                stem = name.removesuffix("_stats.json")
                for suffix in (".tar", ".parquet"):
                    assert (out / f"{stem}{suffix}").read_bytes() == (
                        whole / f"{stem}{suffix}"
                    ).read_bytes()
    assert killed >= 4
    done = curate(*arguments)
    assert done.returncode == 0, done.stderr
    assert hashes(out, "") == expected
    assert all_files(out) == all_files(whole)


def test_ctrl_c_leaves_no_temporary_files(scored: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("filter", scored, "-o", out, "--min", "5.2", "--samples-per-shard", "17")
    run = started(*arguments)
    while run.poll() is None and len(all_files(out)) < 20:
        time.sleep(0.005)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert errors.splitlines()[-1] == "aesthetic: interrupted"
    files = all_files(out)
    assert not [name for name in files if name.endswith(".tmp")]
    assert len(files) < len(all_files(whole))
    assert curate(*arguments).returncode == 0
    assert hashes(out, "") == hashes(whole, "")


def test_several_conditions_and_a_share(scored: Path, tmp_path: Path) -> None:
    done = curate(
        *("filter", scored, "-o", tmp_path / "both", "--min", "5.0", "--max", "6.5"),
        *("--min", f"{OTHER.name}=5.5", "--metadata-only"),
    )
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "both/00000.parquet")
    expected = [
        (a, b)
        for a, b in zip(values(scored), values(scored, OTHER.output), strict=True)
        if 5 <= a <= 6.5 and b >= 5.5
    ]
    found = zip(table[SCORE].to_pylist(), table[OTHER.output].to_pylist(), strict=True)
    assert list(found) == expected
    done = curate(
        *("filter", scored, "-o", tmp_path / "top", "--top-percent", "10"),
        *("--head", OTHER.name, "--metadata-only"),
    )
    assert done.returncode == 0, done.stderr
    best = sorted(values(scored, OTHER.output), reverse=True)
    best = best[: -(-len(best) // 10)]
    found = pq.read_table(tmp_path / "top/00000.parquet")[OTHER.output].to_pylist()
    assert sorted(found, reverse=True) == best


def test_counts_write_nothing(scored: Path, tmp_path: Path) -> None:
    done = curate("filter", scored, "--count", "--min", "5.2")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    scores = values(scored)
    above = {threshold: sum(score >= threshold for score in scores) for threshold in (5.0, 6.5)}
    for threshold, count in above.items():
        percent = f"{100 * count / len(scores):.2f}"
        assert [str(threshold), str(count), percent, "%"] in lines
    kept = sum(score >= 5.2 for score in scores)
    assert lines[-1] == f"the conditions keep {kept} of {SHARDS * SAMPLES} samples".split()


def test_unfinished_runs_want_a_word(scored: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scored"
    folder.mkdir()
    for path in scored.iterdir():
        if path.name != "00002_stats.json":
            (folder / path.name).write_bytes(path.read_bytes())
    arguments = ("filter", folder, "-o", tmp_path / "out", "--min", "5", "--metadata-only")
    done = curate(*arguments)
    assert done.returncode == 2
    assert "1 shards of" in done.stderr and "are not done (00002): run the score" in done.stderr
    done = curate(*arguments, "--partial")
    assert done.returncode == 0
    assert "WARNING: 1 shards" in done.stderr
    sources = pq.read_table(tmp_path / "out/00000.parquet")["old_key"].to_pylist()
    assert {key[:5] for key in sources} == {"00000", "00001", "00003"}


def test_the_only_head_is_the_one_that_counts(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    write_results(tmp_path / "scored", tars, [{OTHER.output: drawn(20, 1)}])
    done = curate("filter", tmp_path / "scored", "--count", "--min", "5")
    assert done.returncode == 0, done.stderr
    kept = sum(score is not None and score >= 5 for score in drawn(20, 1))
    assert done.stdout.endswith(f"the conditions keep {kept} of 20 samples\n")


def test_scores_of_random_weights_are_called_so(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "data", shards=1, samples=21)
    write_results(tmp_path / "scored", tars, seeded=True)
    done = curate("filter", tmp_path / "scored", "--count")
    assert done.stderr == "WARNING: the model has weights: seeded, scores are meaningless\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-o", "OUT"), "say what to keep: --min, --max or --top-percent"),
        (("--min", "5"), "-o/--output is missing"),
        (("-o", "OUT", "--min", "five"), "--min takes a number or HEAD=NUMBER, got 'five'"),
        (("-o", "OUT", "--min", "11"), "meets the conditions"),
        (("-o", "OUT", "--min", "5", "--head", "beauty"), "no scores of 'beauty'"),
        (("-o", "OUT", "--min", "5", "--workers", "0"), "--workers takes a number above 0"),
    ],
)
def test_mistakes_get_a_sentence(
    scored: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    words = [str(tmp_path / "out") if word == "OUT" else word for word in arguments]
    done = curate("filter", scored, *words)
    assert done.returncode == 2
    assert sentence in done.stderr and len(done.stderr.splitlines()) <= 2
    assert not (tmp_path / "out").exists()
