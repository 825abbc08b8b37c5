"""`aesthetic curate score` on a real Triton: the rows are the Client's own scores, kept safe."""

from __future__ import annotations

import io
import socket
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from curate_commands import curate, rows_of, started, stats_of
from curate_datasets import BAD_EVERY, img2dataset

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
