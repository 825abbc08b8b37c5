"""`aesthetic curate score` on a real Triton: the rows are the Client's own scores, kept safe."""

from __future__ import annotations

import io
import signal
import socket
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_commands import all_files, curate, rows_of, started, stats_of
from curate_datasets import BAD_EVERY, img2dataset, jpegs, photo, unit_embeddings, write_tar

from aesthetic_client import Client, ImageError
from aesthetic_client.contract import SEEDED_WEIGHTS
from aesthetic_curate.results import Results
from aesthetic_serve import EmbeddedServer

pytestmark = [pytest.mark.triton, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    img2dataset(folder, shards=3, samples=40)
    return folder


@pytest.fixture(scope="module")
def scored(
    dataset: Path, tiny_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("scored")
    done = curate(
        *("score", dataset, "-o", out, "--url", tiny_server.grpc_url),
        *("--heads", "all", "--embedding", "float32", "--tar-min", "0"),
    )
    assert done.returncode == 0, done.stderr
    assert SEEDED_WEIGHTS in done.stderr
    return out


def images_of(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as file:
        return {
            Path(member.name).stem: file.extractfile(member).read()  # type: ignore[union-attr]
            for member in file
            if member.name.endswith(".jpg")
        }


def test_rows_are_the_samples_with_the_clients_own_scores(
    dataset: Path, scored: Path, tiny_server: EmbeddedServer
) -> None:
    rows = rows_of(scored)
    assert sorted(rows) == ["00000", "00001", "00002"]
    with Client(tiny_server.grpc_url) as client:
        for name, found in rows.items():
            images = images_of(dataset / f"{name}.tar")
            assert [row["key"] for row in found] == list(images)
            for row, data in zip(found, images.values(), strict=True):
                try:
                    expected = client.score(data, heads="all", embedding=True)
                except ImageError as error:
                    assert row["status"] == "bad_image"
                    assert row["error"] == f"{error.message} [{error.code}]"
                    assert row["aesthetic_score"] is None
                    assert np.isnan(row["embedding"]).all()
                    continue
                assert (row["status"], row["error"]) == ("ok", None)
                for head in client.heads():
                    assert row[head.output] == pytest.approx(expected.scores[head.name], abs=2e-4)
                cosine = np.dot(np.float32(row["embedding"]), expected.embedding)
                assert cosine == pytest.approx(1, abs=1e-5)


def test_sizes_and_metadata_stand_in_the_rows(dataset: Path, scored: Path) -> None:
    from PIL import Image

    images = images_of(dataset / "00001.tar")
    for index, row in enumerate(rows_of(scored)["00001"]):
        if row["status"] == "ok":
            with Image.open(io.BytesIO(images[row["key"]])) as image:
                assert (row["width"], row["height"]) == image.size
        assert row["caption"] == f"sample {index} of 1"
        assert row["source_status"] == "success"
        assert row["source_width"] == 96
        assert row["image"] == "jpg"


def test_stats_tell_what_the_rows_hold(scored: Path) -> None:
    rows = rows_of(scored)
    for name, stats in stats_of(scored).items():
        bad = 39 // BAD_EVERY
        assert stats["samples"] == len(rows[name]) == 39
        assert stats["statuses"] == {"bad_image": bad, "ok": 39 - bad}
        values = np.array([row["aesthetic_score"] for row in rows[name] if row["status"] == "ok"])
        found = stats["scores"]["aesthetic_score"]
        assert found["count"] == len(values)
        assert found["mean"] == pytest.approx(values.mean(), abs=1e-6)
        assert sum(found["histogram"]["counts"]) == len(values)
        assert stats["notes"]["metadata_only"] == 1
        assert SEEDED_WEIGHTS in stats["provenance"]["clip_image"]["weights"]


def test_the_filtered_tar_holds_the_kept_samples_byte_for_byte(dataset: Path, scored: Path) -> None:
    kept = [r["key"] for r in rows_of(scored)["00000"] if (r["aesthetic_score"] or -1) >= 0]
    with tarfile.open(dataset / "00000.tar") as before, tarfile.open(scored / "00000.tar") as after:
        expected = [m for m in before.getmembers() if m.name.partition(".")[0] in kept]
        found = after.getmembers()
        assert [member.tobuf() for member in found] == [member.tobuf() for member in expected]
        for one, other in zip(found, expected, strict=True):
            assert after.extractfile(one).read() == before.extractfile(other).read()  # type: ignore[union-attr]
    assert stats_of(scored)["00000"]["kept"] == len(kept)


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


@pytest.mark.parametrize("decode", ["server", "client"])
def test_both_ways_of_decoding_give_the_same_rows(
    decode: str, dataset: Path, scored: Path, tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    done = curate(
        *("score", dataset / "00000.tar", "-o", tmp_path, "--url", tiny_server.grpc_url),
        *("--decode", decode),
    )
    assert done.returncode == 0, done.stderr
    pairs = zip(rows_of(tmp_path)["00000"], rows_of(scored)["00000"], strict=True)
    for found, expected in pairs:
        for column in ("key", "status", "width", "height", "caption"):
            assert found[column] == expected[column]
        assert found["aesthetic_score"] == pytest.approx(expected["aesthetic_score"], abs=2e-4)


def test_machines_share_the_shards(
    dataset: Path, tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    for index in range(2):
        done = curate(
            *("score", dataset, "-o", tmp_path, "--url", tiny_server.grpc_url),
            *("--shard-index", index, "--shard-count", 2),
        )
        assert done.returncode == 0, done.stderr
        assert sorted(rows_of(tmp_path)) == [["00000", "00002"], ["00000", "00001", "00002"]][index]
        assert Results.open(str(tmp_path)).unfinished == [["00001"], []][index]


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


def test_a_server_that_is_gone_stops_the_run_resumably(
    dataset: Path, tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    done = curate(
        *("score", dataset, "-o", tmp_path, "--url", "grpc://127.0.0.1:9", "--patience", 1)
    )
    assert done.returncode == 2
    assert "no answer for 1 s from grpc://127.0.0.1:9" in done.stderr
    assert "run the same command again to go on" in done.stderr
    assert "Traceback" not in done.stderr
    assert not stats_of(tmp_path) and not rows_of(tmp_path)


def test_what_one_server_leaves_unanswered_goes_to_another(
    dataset: Path, scored: Path, tmp_path: Path, tiny_repository: Path, tiny_server: EmbeddedServer
) -> None:
    """The second server stops for good while both are at work."""
    img2dataset(tmp_path / "in", shards=2, samples=500)
    with EmbeddedServer(tiny_repository) as other:
        run = started(
            *("score", tmp_path / "in", "-o", tmp_path / "out"),
            *("--url", f"{tiny_server.grpc_url},{other.grpc_url}"),
        )
        time.sleep(4)
        other.stop(grace_s=0)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 0, stderr
    for stats in stats_of(tmp_path / "out").values():
        assert stats["statuses"] == {"bad_image": 499 // BAD_EVERY, "ok": 499 - 499 // BAD_EVERY}


def test_a_server_that_never_answers_holds_up_nobody(
    tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    """It takes connections, and says nothing: each try ends at its deadline."""
    img2dataset(tmp_path / "in", shards=1, samples=200)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = curate(
            *("score", tmp_path / "in", "-o", tmp_path / "out", "--timeout", 2, "--workers", 1),
            *("--url", f"{tiny_server.grpc_url},grpc://127.0.0.1:{silent.getsockname()[1]}"),
        )
    assert done.returncode == 0, done.stderr
    assert stats_of(tmp_path / "out")["00000"]["samples"] == 199


def test_servers_of_different_weights_are_refused(
    dataset: Path, tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    from towers import build_tiny_repository

    with EmbeddedServer(build_tiny_repository(tmp_path / "other", seed=1)) as other:
        done = curate(
            *("score", dataset, "-o", tmp_path / "out"),
            *("--url", tiny_server.grpc_url, "--url", other.grpc_url),
        )
    assert done.returncode == 2
    assert "serves different weights, heads or precision" in done.stderr


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing-folder"], "missing-folder"),
        (["--workers", "0"], "--workers takes a number above 0"),
        (["--shard-index", "3", "--shard-count", "2"], "--shard-index counts from 0"),
        (["--heads", "nonsense"], "nonsense"),
        (["--local"], "--local scores without a server"),
    ],
)
def test_a_wrong_call_is_answered_in_one_sentence(
    arguments: list[str], words: str, dataset: Path, tmp_path: Path, tiny_server: EmbeddedServer
) -> None:
    given = arguments if arguments[0].startswith("--") else []
    inputs = [dataset] if given else arguments
    done = curate("score", *inputs, "-o", tmp_path, "--url", tiny_server.grpc_url, *given)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr
