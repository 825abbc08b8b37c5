"""`aesthetic score --like`: cosines with an aesthetic embedding beside the scores."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aesthetic_client import Client
from aesthetic_client.cli import main
from aesthetic_client.cli._likes import read_direction
from aesthetic_client.contract import SEEDED_WEIGHTS
from aesthetic_client.vectors import origin_notes
from aesthetic_guidance.embeddings import AestheticEmbedding, mean_of

Run = Callable[..., tuple[int, str, str]]
HEAD = "sac+logos+ava1-l14-linearMSE"


@pytest.fixture(scope="module")
def embedded(tiny_server: Any, photographs: list[Path]) -> dict[str, np.ndarray[Any, Any]]:
    """The first photographs' embeddings, asked for one by one."""
    with Client(tiny_server.grpc_url) as client:
        return {str(path): client.embed(path).astype(np.float64) for path in photographs[:8]}


@pytest.fixture
def score(tiny_server: Any, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        code = main(["score", *map(str, words), "--url", tiny_server.grpc_url])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


@pytest.fixture
def like(embedded: dict[str, np.ndarray[Any, Any]], tmp_path: Path) -> Path:
    mean_of(np.stack(list(embedded.values())[:3])).write(tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


@pytest.mark.triton
def test_the_column_has_cosines_and_ranks(score, embedded, like):
    code, out, _ = score(*embedded, "--like", like, "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["path", "like:mine", HEAD, "error"] and len(rows) == 8
    direction = AestheticEmbedding.read(like).vector.astype(np.float64)
    for row in rows:
        expected = embedded[row["path"]] @ direction
        assert float(row["like:mine"]) == pytest.approx(expected, abs=1e-6)
    _, table, _ = score(*embedded, "--like", like)
    cosines = [float(line.split()[1]) for line in table.splitlines()[1:]]
    assert len(cosines) == 8 and cosines == sorted(cosines, reverse=True)


@pytest.mark.triton
def test_heads_that_are_named_come_first_and_scores_stay_as_they_are(score, embedded, like):
    words = (*embedded, "--heads", HEAD, "--format", "csv")
    plain = [row.split(",") for row in score(*words)[1].splitlines()]
    found = [row.split(",") for row in score(*words, "--like", like)[1].splitlines()]
    assert found[0] == ["path", HEAD, "like:mine", "error"]
    for row, with_like in zip(plain[1:], found[1:], strict=True):
        assert float(row[1]) == pytest.approx(float(with_like[1]), abs=1e-5)


@pytest.mark.triton
def test_published_and_npy_files_do_as_well(score, embedded, like, tmp_path):
    embedding = AestheticEmbedding.read(like)
    embedding.write(tmp_path / "b.pt")
    np.save(tmp_path / "c.npy", embedding.vector[None] * 17)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    options = [word for name in ("b.pt", "c.npy") for word in ("--like", tmp_path / name)]
    words = (*embedded, tmp_path / "broken.png", "--like", like, *options, "--format", "csv")
    code, out, _ = score(*words)
    assert code == 1  # the broken file, which has a row of its own
    good = [row for row in csv.DictReader(io.StringIO(out)) if not row["error"]]
    assert len(good) == 8
    for row in good:
        assert float(row["like:b"]) == float(row["like:mine"])
        assert float(row["like:c"]) == pytest.approx(float(row["like:mine"]), abs=1e-6)


@pytest.mark.triton
def test_where_an_embedding_comes_from_is_told(score, embedded, tmp_path):
    values = np.stack(list(embedded.values())[:3])
    tower = {"weights": "openai", "weights_sha256": "ab" * 32}
    mean_of(values, model=tower).write(tmp_path / "other.safetensors")
    mean_of(values, model={"weights": SEEDED_WEIGHTS}).write(tmp_path / "noise.safetensors")
    mean_of(values).write(tmp_path / "unknown.safetensors")
    names = ("other", "noise", "unknown")
    likes = [word for name in names for word in ("--like", tmp_path / f"{name}.safetensors")]
    code, _, said = score(next(iter(embedded)), *likes)
    assert code == 0 and "like:unknown" not in said
    assert "like:other was made by another tower (openai, sha256 abababababab) than" in said
    assert f"MEANINGLESS: like:noise was made by a tower with weights: {SEEDED_WEIGHTS}" in said


def test_only_a_tower_that_is_known_to_differ_is_told_of():
    openai = {"weights": "openai", "weights_sha256": "ab" * 32}
    for model, served in (
        ({}, openai),
        (openai, {}),
        (openai, openai),
        ({"weights": "a copy", "weights_sha256": "ab" * 32}, openai),
        ({"weights": "openai"}, openai),
    ):
        assert origin_notes("it", model, served) == ()
    for model, served in (
        ({"weights": "openai", "weights_sha256": "cd" * 32}, openai),
        ({"weights": "laion2b"}, openai),
        (openai, {"weights": SEEDED_WEIGHTS}),
        ({"weights": SEEDED_WEIGHTS}, {"weights": SEEDED_WEIGHTS}),
    ):
        assert len(origin_notes("it", model, served)) == 1


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1.0, 1e200, 1e306])
def test_vectors_of_any_size_keep_their_direction(tmp_path, size):
    vector = np.random.default_rng(3).standard_normal(768)
    np.save(tmp_path / "v.npy", vector * size)
    found = read_direction(tmp_path / "v.npy").vector
    assert np.abs(found - vector / np.linalg.norm(vector)).max() < 1e-7


def test_errors_come_before_any_server_is_asked(tmp_path, capsys):
    np.save(tmp_path / "mine.npy", np.ones(768))
    (tmp_path / "deeper").mkdir()
    np.save(tmp_path / "deeper" / "mine.npy", np.ones(768))
    nowhere = ["score", str(tmp_path / "a.jpg"), "--url", "localhost:1"]
    cases = {
        "none.safetensors cannot be read": [tmp_path / "none.safetensors"],
        "share the column like:mine": [tmp_path / "mine.npy", tmp_path / "deeper" / "mine.npy"],
    }
    for words, paths in cases.items():
        likes = [word for path in paths for word in ("--like", str(path))]
        assert main([*nowhere, *likes]) == 2
        assert words in capsys.readouterr().err


def test_the_base_install_reads_safetensors_without_torch_or_safetensors(tmp_path):
    mean_of(np.eye(768)[:2] * 3).write(tmp_path / "mine.safetensors")
    program = (
        "import sys\n"
        "for name in ('rich', 'PIL', 'torch', 'safetensors', 'aesthetic_guidance',"
        " 'aesthetic_export'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from aesthetic_client.cli.score import _likes\n"
        "vector = _likes([Path(sys.argv[1])])['like:mine'].vector\n"
        "print(vector.dtype, vector[:3].round(4).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "mine.safetensors")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    half = float(np.float32(np.sqrt(0.5)).round(4))
    assert done.stdout == f"float32 {[half, half, 0.0]}\n", done.stderr
