"""`aesthetic curate score` over inputs that change, break, and are vectors; runs that are cut."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_commands import all_files, curate, rows_of, started, stats_of
from curate_datasets import img2dataset, jpegs, photo, unit_embeddings, write_tar

from aesthetic_client import Client
from aesthetic_curate.results import Results
from aesthetic_serve import EmbeddedServer

pytestmark = [pytest.mark.triton, pytest.mark.timeout(240)]


def test_done_shards_are_skipped_and_changed_ones_redone(
    tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    tars = img2dataset(tmp_path / "in", shards=2, samples=5)
    out = tmp_path / "out"
    arguments = ["score", tmp_path / "in", "-o", out, "--url", tiny_server.grpc_url]
    assert curate(*arguments).returncode == 0
    first = stats_of(out)

    again = curate(*arguments)
    assert again.returncode == 0
    assert "2 shards are done already" in again.stderr
    assert stats_of(out) == first

    write_tar(tars[1], [("new.jpg", photo(7))])
    changed = curate(*arguments)
    assert "1 shards have changed since, and are redone" in changed.stderr
    assert stats_of(out)["00000"] == first["00000"]
    assert [row["key"] for row in rows_of(out)["00001"]] == ["new"]

    other = curate(*arguments, "--heads", "all")
    assert "2 shards were scored with other settings" in other.stderr
    assert all("ava_logos_l14_reluMSE" in stats["scores"] for stats in stats_of(out).values())
    assert len({stats["fingerprint"] for stats in stats_of(out).values()}) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_half_done_and_goes_on(
    number: int, tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    img2dataset(tmp_path / "in", shards=4, samples=250)
    out = tmp_path / "out"
    arguments = ["score", tmp_path / "in", "-o", out, "--url", tiny_server.grpc_url]
    run = started(*arguments)
    deadline_s = time.monotonic() + 60
    while not stats_of(out) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    run.send_signal(number)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 130, stderr
    assert "interrupted" in stderr
    done = len(stats_of(out))
    assert 1 <= done < 4
    assert not [name for name in all_files(out) if name.endswith(".tmp")]

    rest = curate(*arguments)
    assert rest.returncode == 0, rest.stderr
    assert f"{done} shards are done already" in rest.stderr
    assert [len(rows) for rows in rows_of(out).values()] == [249] * 4


def test_samples_without_an_image_and_a_cut_tar(
    tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    images = jpegs(4)
    tar = write_tar(
        tmp_path / "in.tar",
        [
            ("a.jpg", images[0]),
            ("b.txt", b"text alone"),
            ("c.jpg", images[1]),
            ("d.jpg", images[2]),
        ],
    )
    data = tar.read_bytes()
    tar.write_bytes(data[: data.index(images[2]) + 100])
    done = curate("score", tar, "-o", tmp_path / "out", "--url", tiny_server.grpc_url)
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "out")["in"]
    assert [(row["key"], row["status"]) for row in rows] == [
        *(("a", "ok"), ("b", "no_image"), ("c", "ok"), ("d", "unreadable"))
    ]
    assert stats_of(tmp_path / "out")["in"]["notes"]["truncated"] == 1
    assert "1 no_image" in done.stdout


def test_a_shard_that_cannot_be_read_stops_no_other(
    tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    img2dataset(tmp_path / "in", shards=3, samples=4)
    (tmp_path / "in" / "00001.tar").write_bytes(b"not a tar, for sure" * 100)
    done = curate("score", tmp_path / "in", "-o", tmp_path / "out", "--url", tiny_server.grpc_url)
    assert done.returncode == 1
    assert "not read: 00001: " in done.stderr
    assert sorted(stats_of(tmp_path / "out")) == ["00000", "00002"]
    assert sorted(rows_of(tmp_path / "out")) == ["00000", "00002"]


@pytest.mark.parametrize("out", [".", "scores", "../in"])
def test_an_output_in_the_input_is_refused_before_anything_is_touched(
    out: str, tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    img2dataset(tmp_path / "in", shards=1, samples=4)
    before = {name: (tmp_path / "in" / name).read_bytes() for name in all_files(tmp_path / "in")}
    for given in (tmp_path / "in", f"{tmp_path}/in/*.tar"):
        done = curate(
            *("score", given, "-o", tmp_path / "in" / out, "--url", tiny_server.grpc_url),
            *("--tar-min", 9),
        )
        if out == "scores" and str(given).endswith(".tar"):
            assert done.returncode == 0  # the pattern takes no results for input
            continue
        assert done.returncode == 2 and "lies in the" in done.stderr
        after = {name: (tmp_path / "in" / name).read_bytes() for name in all_files(tmp_path / "in")}
        assert after == before


def test_a_table_that_has_grown_is_counted_once(
    tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    for rows in (3, 5, 2):
        table = pa.table({"key": [str(n) for n in range(rows)], "jpg": [photo(1)] * rows})
        pq.write_table(table, tmp_path / "t.parquet")
        done = curate(
            *("score", tmp_path / "t.parquet", "-o", tmp_path / "out"),
            *("--url", tiny_server.grpc_url, "--rows-per-shard", 3),
        )
        assert done.returncode == 0, done.stderr
        assert Results.open(str(tmp_path / "out")).samples == rows
        assert sum(map(len, rows_of(tmp_path / "out").values())) == rows


def test_new_images_further_down_in_a_folder_are_scored(
    tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    (tmp_path / "in" / "a" / "b").mkdir(parents=True)
    (tmp_path / "in" / "a" / "b" / "one.jpg").write_bytes(photo(1))
    arguments = ["score", tmp_path / "in", "-o", tmp_path / "out", "--url", tiny_server.grpc_url]
    assert curate(*arguments).returncode == 0
    (tmp_path / "in" / "a" / "b" / "two.jpg").write_bytes(photo(2))
    done = curate(*arguments)
    assert "1 shards have changed since" in done.stderr
    (rows,) = rows_of(tmp_path / "out").values()
    assert [row["key"] for row in rows] == ["a/b/one", "a/b/two"]


@pytest.mark.parametrize("where", [["--url"], ["--local", "--repository"]])
def test_stored_embeddings_are_scored_here_and_there(
    where: list[str], tmp_path: Path, tiny_repository: Path, tiny_server: EmbeddedServer
) -> None:
    """clip-retrieval's files, with one row that is no unit vector."""
    vectors = unit_embeddings(70).astype(np.float16)
    vectors[3] *= 2
    (tmp_path / "in" / "img_emb").mkdir(parents=True)
    (tmp_path / "in" / "metadata").mkdir()
    np.save(tmp_path / "in" / "img_emb" / "img_emb_0.npy", vectors)
    metadata = pa.table({"image_path": [f"{row:09d}" for row in range(70)], "n": range(70)})
    pq.write_table(metadata, tmp_path / "in" / "metadata" / "metadata_0.parquet")
    given = tiny_server.grpc_url if where == ["--url"] else tiny_repository
    done = curate(
        *("score", tmp_path / "in", "-o", tmp_path / "out", *where, given),
        *("--heads", "all", "--embedding", "float32"),
    )
    assert done.returncode == 0, done.stderr
    (rows,) = rows_of(tmp_path / "out").values()
    assert [row["n"] for row in rows] == list(range(70))
    assert rows[3]["status"] == "bad_embedding"
    assert rows[3]["error"].startswith("has norm 2, expected 1")
    assert rows[3]["aesthetic_score"] is None
    good = [row for row in rows if row["status"] == "ok"]
    assert len(good) == 69
    with Client(tiny_server.grpc_url) as client:
        expected = client.score_embeddings_by_head(np.delete(vectors, 3, axis=0))
        for head in client.heads():
            found = [row[head.output] for row in good]
            np.testing.assert_allclose(found, expected[head.name], atol=2e-5)
    kept = np.float32([row["embedding"] for row in good])
    assert np.array_equal(kept, np.delete(vectors, 3, axis=0).astype(np.float32))
