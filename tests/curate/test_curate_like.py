"""`aesthetic curate score --like`: cosines with aesthetic embeddings, as score columns."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from curate_commands import curate, rows_of, stats_of
from curate_datasets import jpegs, unit_embeddings, write_tar
from safetensors.numpy import save_file

from aesthetic_client import Client
from aesthetic_client.cli import main
from aesthetic_client.contract import (
    AESTHETIC_HEADS,
    DEFAULT_HEAD,
    HEADS_DATA,
    PROVENANCE_PREFIX,
    SEEDED_WEIGHTS,
    Head,
)
from aesthetic_client.errors import EmbeddingError, InputError
from aesthetic_curate.cli._messages import say_plan
from aesthetic_curate.column_scorer import AestheticScorer
from aesthetic_curate.config import FORMAT, Job, ScoreConfig, essentials
from aesthetic_curate.inputs import find_shards
from aesthetic_curate.likeness import cosines, read_likes, with_likes
from aesthetic_curate.options import InputOptions
from aesthetic_curate.results import Results
from aesthetic_curate.runs import plan
from aesthetic_curate.scorers import open_scorer
from aesthetic_curate.scoring import score_shard
from aesthetic_curate.selection import count_kept

JPEGS = jpegs(7)
BAD = 3  # the sample without an image


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two embeddings' files, of any length: `mine.safetensors` and `oil on wood.npy`."""
    folder = tmp_path_factory.mktemp("likes")
    vectors = np.random.default_rng(1).standard_normal((2, 768))
    save_file({"embedding": vectors[0].astype(np.float32)}, folder / "mine.safetensors")
    np.save(folder / "oil on wood.npy", vectors[1:] * 40)
    return [folder / "mine.safetensors", folder / "oil on wood.npy"]


@pytest.fixture(scope="module")
def directions(files: list[Path]) -> dict[str, np.ndarray]:
    vectors = np.random.default_rng(1).standard_normal((2, 768))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return dict(zip(("like_mine", "like_oil_on_wood"), units, strict=True))


@pytest.fixture(scope="module")
def embedded(tiny_server: Any) -> np.ndarray:
    """Embeddings of JPEGS, asked for one by one."""
    with Client(tiny_server.grpc_url) as client:
        return np.stack([client.embed(image) for image in JPEGS]).astype(np.float64)


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples; one has no image, and all have metadata of a name that will be taken."""
    members = []
    images = iter(JPEGS)
    for at in range(8):
        text = json.dumps({"like_mine": f"text {at}"}).encode()
        members.append((f"{at:03d}.json", text))
        if at != BAD:
            members.append((f"{at:03d}.jpg", next(images)))
    return write_tar(tmp_path_factory.mktemp("tars") / "00000.tar", members)


def likes_of(files: list[Path]) -> list[object]:
    return [word for path in files for word in ("--like", path)]


@pytest.mark.triton
def test_images_get_columns_that_filter_and_report_know(
    tiny_server: Any,
    tar: Path,
    files: list[Path],
    directions: dict[str, np.ndarray],
    embedded: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "scored"
    command = ("score", tar, "-o", out, "--url", tiny_server.grpc_url, "--workers", 1)
    done = curate(*command, *likes_of(files))
    assert done.returncode == 0, done.stderr
    (rows,) = rows_of(out).values()
    assert list(rows[0])[:4] == ["key", "aesthetic_score", "like_mine", "like_oil_on_wood"]
    assert "embedding" not in rows[0] and rows[2]["source_like_mine"] == "text 2"
    good = [row for row in rows if row["status"] == "ok"]
    assert len(good) == 7 and rows[BAD]["like_mine"] is None
    for name, direction in directions.items():
        found = np.array([row[name] for row in good])
        assert np.abs(found - embedded @ direction).max() < 2e-5
    (stats,) = stats_of(out).values()
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert stats["config"]["likes"] == dict(zip(directions, hashes, strict=True))
    assert stats["scores"]["like_mine"]["count"] == 7
    # An equal file elsewhere is the same column; a changed one is not.
    again = tmp_path / "mine.safetensors"
    again.write_bytes(files[0].read_bytes())
    words = list(map(str, (*command, *likes_of([again, files[1]]))))
    assert main(["curate", *words]) == 0
    assert "1 shards are done already" in capsys.readouterr().err
    save_file({"embedding": np.ones(768, np.float32)}, again)
    config = ScoreConfig((DEFAULT_HEAD,), likes=read_likes([again, files[1]]))
    job = Job(str(out), ("host:8001",), config, InputOptions(), stats["provenance"])
    assert plan(find_shards([str(tar)], InputOptions()), job).other_settings == 1
    # Selection by the column, and what shows it.
    low = float(np.sort(embedded @ directions["like_mine"])[-3]) - 1e-5
    words = ["curate", "filter", out, "--min", f"like_mine={low}", "--metadata-only"]
    assert main([*map(str, words), "-o", str(tmp_path / "kept")]) == 0
    kept = pq.read_table(next((tmp_path / "kept").rglob("*.parquet")))
    assert kept.num_rows == 3 and min(kept["like_mine"].to_pylist()) >= np.float32(low)
    assert main(["curate", "filter", str(out), "--count", "--head", "like_mine"]) == 0
    assert "min like_mine" in capsys.readouterr().out
    counts = list(count_kept(Results.open(str(out)), "like_mine"))
    assert counts[0][1] == 7 and np.allclose(np.diff([t for t, _ in counts]), 0.02)
    page = tmp_path / "report.html"
    assert main(["curate", "report", str(out), "-o", str(page), "--head", "like_mine"]) == 0
    assert "like_oil_on_wood" in page.read_text() and hashes[0][:12] in page.read_text()


@pytest.mark.triton
def test_stored_embeddings_by_the_server_and_here(
    tiny_server: Any,
    tiny_repository: Path,
    files: list[Path],
    directions: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    vectors = unit_embeddings(50, seed=4).astype(np.float16)
    vectors[9] = 3.0
    np.save(tmp_path / "stored.npy", vectors)
    found = {}
    heads_data = tiny_repository / AESTHETIC_HEADS.name / "1" / HEADS_DATA
    config = ScoreConfig((DEFAULT_HEAD,), likes=read_likes(files))
    (shard,) = find_shards([str(tmp_path / "stored.npy")], InputOptions())
    for name, urls in (("served", (tiny_server.grpc_url,)), ("local", ())):
        out = str(tmp_path / name)
        job = Job(out, urls, config, InputOptions(), heads_file=str(heads_data))
        scorer = open_scorer(job)
        score_shard(shard, job, scorer)
        scorer.close()
        (found[name],) = rows_of(tmp_path / name).values()
    for rows in found.values():
        assert rows[9]["status"] == "bad_embedding" and rows[9]["like_mine"] is None
        good = np.arange(50) != 9
        for column, direction in directions.items():
            cosine = np.array([row[column] for row, own in zip(rows, good, strict=True) if own])
            assert np.abs(cosine - vectors[good].astype(float) @ direction).max() < 1e-6
    assert [row["like_mine"] for row in found["local"]] == [
        row["like_mine"] for row in found["served"]
    ]


@pytest.mark.triton
def test_batches_of_pipelines_have_the_columns(
    tiny_server: Any, files: list[Path], directions: dict[str, np.ndarray], embedded: np.ndarray
) -> None:
    expected = embedded @ directions["like_mine"]
    scorer = AestheticScorer(tiny_server.grpc_url, like=files, image_column="bytes")
    scorer = pickle.loads(pickle.dumps(scorer))
    batch = {"bytes": np.array([*JPEGS, b"no image"], object)}
    found = scorer(batch)
    scorer.close()
    assert "embedding" not in found and found["like_mine"].dtype == np.float32
    assert np.abs(found["like_mine"][:-1] - expected).max() < 2e-5
    assert np.isnan(found["like_mine"][-1])
    stored = AestheticScorer(tiny_server.grpc_url, like=files[:1], embedding_column="vector")
    found = stored({"vector": np.array([*embedded, np.ones(768)])})
    stored.close()
    assert np.abs(found["like_mine"][:-1] - expected).max() < 1e-6
    assert np.isnan(found["like_mine"][-1]) and found["status"][-1] == "bad_embedding"


@pytest.mark.triton
def test_a_like_of_a_random_tower_makes_results_meaningless(
    tiny_server: Any, tiny_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(name: str, weights: str) -> Path:
        known = {f"{PROVENANCE_PREFIX}weights": weights}
        save_file({"embedding": np.ones(768, np.float32)}, tmp_path / name, known)
        return tmp_path / name

    noise = write("noise.safetensors", SEEDED_WEIGHTS)
    other = write("other.safetensors", "laion2b")
    np.save(tmp_path / "stored.npy", unit_embeddings(4, seed=4).astype(np.float32))
    (shard,) = find_shards([str(tmp_path / "stored.npy")], InputOptions())
    config = ScoreConfig((DEFAULT_HEAD,), likes=read_likes([noise, other]))
    heads_data = tiny_repository / AESTHETIC_HEADS.name / "1" / HEADS_DATA
    known = {"clip_image": {"weights": "openai"}}  # a server's, of which the heads are here
    job = Job(str(tmp_path / "out"), (), config, InputOptions(), known, str(heads_data))
    say_plan(plan([shard], job), job)
    said = capsys.readouterr().err
    assert "MEANINGLESS: like_noise was made by a tower with weights: seeded" in said
    assert "like_other was made by another tower (laion2b) than" in said
    scorer = open_scorer(job)
    score_shard(shard, job, scorer)
    scorer.close()
    results = Results.open(job.out)
    assert results.provenance["like_other"] == {"weights": "laion2b"} and results.seeded
    scorer = AestheticScorer(tiny_server.grpc_url, like=[noise], embedding_column="vector")
    with pytest.warns(UserWarning, match="MEANINGLESS: like_noise"):
        scorer({"vector": unit_embeddings(2, seed=4)})
    scorer.close()


def test_files_that_cannot_be_columns(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "oil-on-wood.npy").write_bytes(files[1].read_bytes())
    with pytest.raises(InputError, match="share the column like_oil_on_wood; rename"):
        read_likes([files[1], tmp_path / "oil-on-wood.npy"])
    likes = read_likes(files)
    with pytest.raises(InputError, match="a head is named like_mine too"):
        with_likes([DEFAULT_HEAD, Head("like_mine", "x")], likes)
    (tmp_path / "broken.safetensors").write_bytes(b"not an embedding")
    np.save(tmp_path / "small.npy", np.ones(512))
    for name, words in (
        ("broken.safetensors", "is no .safetensors file"),
        ("small.npy", r"shape \(768,\), got \(512,\)"),
        ("none.npy", "cannot be read"),
        ("photo.jpg", "ends in .safetensors or .npy"),
    ):
        with pytest.raises(EmbeddingError, match=words):
            read_likes([tmp_path / name])
    # Said before anything is read or asked.
    words = ["curate", "score", "nowhere.tar", "-o", str(tmp_path / "out"), "--url", "localhost:1"]
    assert main([*words, "--like", str(tmp_path / "small.npy")]) == 2
    assert not (tmp_path / "out").exists()


def test_cosines_and_fingerprints(files: list[Path], directions: dict[str, np.ndarray]) -> None:
    units = unit_embeddings(20, seed=2).astype(np.float32)
    found = cosines(read_likes(files), units)
    for name, direction in directions.items():
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - units.astype(float) @ direction).max() < 1e-7
    # Without likes it is what it was before there were any.
    plain = ScoreConfig((DEFAULT_HEAD,), "float16")
    old = {"heads": [asdict(DEFAULT_HEAD)], "embedding": "float16", "normalize": False}
    job = Job("out", ("host:8001",), plain, InputOptions())
    parts = {
        "format": FORMAT,
        "config": {**old, "tar_min": None},
        "options": asdict(InputOptions()),
        "model": essentials({}),
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    assert job.fingerprint == hashlib.sha256(text.encode()).hexdigest()
