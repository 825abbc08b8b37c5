"""`aesthetic curate score --profile`: which tower scored is in the stats, and never mixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curate_commands import rows_of, stats_of
from curate_datasets import jpegs, unit_embeddings, write_tar

from aesthetic_client.cli import main
from aesthetic_client.contract import DEFAULT_HEAD, INT8
from aesthetic_client.pixels import prepare_pixels
from aesthetic_curate.cli._messages import say_plan
from aesthetic_curate.config import Job, ScoreConfig, essentials
from aesthetic_curate.errors import MixedResultsError
from aesthetic_curate.inputs import find_shards
from aesthetic_curate.options import InputOptions
from aesthetic_curate.results import Results
from aesthetic_curate.runs import plan
from aesthetic_serve import EmbeddedServer

SHARDS = ("a", "b")


def score(*arguments: object) -> int:
    return main(["curate", "score", *map(str, arguments), "--embedding", "float32"])


def embeddings_of(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([row["embedding"] for row in rows], np.float32)


def say(inputs: list[Path], before: list[str], now: str, out: Path) -> None:
    """The plan's message where the inputs' shards were scored in the precisions `before`."""
    shards = find_shards([str(path) for path in inputs], InputOptions())
    out.mkdir()
    for at, shard in enumerate(shards):
        tower = {"precision": before[at % len(before)]}
        stats = {"fingerprint": "of another run", "provenance": {"clip_image": tower}}
        (out / f"{shard.name}_stats.json").write_text(json.dumps(stats))
    provenance = {"clip_image": {"precision": now}} if now else {}
    config = ScoreConfig((DEFAULT_HEAD,))
    job = Job(str(out), (), config, InputOptions(), provenance)
    say_plan(plan(shards, job), job)


def stored(folder: Path) -> Path:
    np.save(folder / "stored.npy", unit_embeddings(4))
    return folder / "stored.npy"


@pytest.fixture
def images() -> list[bytes]:
    return jpegs(6)


@pytest.fixture
def tars(tmp_path: Path, images: list[bytes]) -> list[Path]:
    """Two shards of three images."""
    members = [(f"{number}.jpg", data) for number, data in enumerate(images)]
    return [
        write_tar(tmp_path / f"{name}.tar", members[3 * at : 3 * at + 3])
        for at, name in enumerate(SHARDS)
    ]


@pytest.mark.triton
def test_a_run_in_fp32_is_redone_in_int8_and_says_so(
    tars: list[Path],
    images: list[bytes],
    tmp_path: Path,
    tiny_cpu_repository: Path,
    tiny_server: EmbeddedServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from aesthetic_export.openvino_export import openvino_embedder

    out = tmp_path / "out"
    assert score(*tars, "-o", out, "--url", tiny_server.grpc_url) == 0
    before, rows = stats_of(out), rows_of(out)
    assert {s["provenance"]["clip_image"]["precision"] for s in before.values()} == {"fp32"}
    capsys.readouterr()

    chosen = ("--repository", tiny_cpu_repository, "--profile", "int8")
    # One shard of the two, as where a run is stopped in between: the folder holds both kinds.
    assert score(*tars, "-o", out, *chosen, "--limit", 1) == 0
    said = capsys.readouterr().err
    assert (
        "1 shards were scored with other settings or another model (in fp32; now in int8), and "
        "are redone. To keep them, stop now and give another --output or, if nothing else differs, "
        "--profile fp32 (or --url of a server in it)" in said
    )
    after = stats_of(out)
    assert after["b"] == before["b"]
    assert after["a"]["provenance"]["clip_image"]["precision"] == "int8"
    assert after["a"]["fingerprint"] != before["a"]["fingerprint"]
    with pytest.raises(MixedResultsError, match=r"differ in provenance\.clip_image\."):
        Results.open(str(out))

    artifact = tiny_cpu_repository / "clip_image" / "1" / INT8.artifact
    pixels = np.stack([prepare_pixels(data) for data in images[:3]])
    found = embeddings_of(rows_of(out)["a"])
    np.testing.assert_allclose(found, openvino_embedder(artifact)(pixels), atol=5e-3)
    assert np.abs(found - embeddings_of(rows["a"])).max() > 1e-4


def test_int8_towers_of_other_calibration_images_are_other_models() -> None:
    def model(digest: str) -> dict[str, object]:
        return essentials({"clip_image": {"precision": "int8", "calibration_sha256": digest}})

    assert model("a") == model("a") != model("b")
    uncalibrated: Any = essentials({"clip_image": {"precision": "fp32"}})
    assert "calibration_sha256" not in uncalibrated["clip_image"]  # nor in older fingerprints


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "localhost:1", "--profile", "int8"], "--profile is for a started server"),
        (["--local", "--profile", "int8"], "leave --url and --profile away"),
    ],
)
def test_a_profile_of_no_started_server_is_refused(
    arguments: list[str],
    words: str,
    tars: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert score(*tars, "-o", tmp_path / "out", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (["int8"], "fp32", "(in int8; now in fp32), and"),
        (["int8", "bf16"], "fp32", "(in bf16, int8; now in fp32), and"),
        (["fp16"], "fp32", "(in fp16; now in fp32), and"),
        (["fp32"], "fp32", "another model, and"),
        (["int8"], "", "another model, and"),  # a server that does not say
    ],
)
def test_the_message_says_how_to_keep_what_was_scored(
    before: list[str],
    now: str,
    told: str,
    tars: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    say(tars, before, now, tmp_path / "out")
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{told} are redone. To keep them, stop now and give another --output" in said
    assert said.endswith("--profile int8 (or --url of a server in it)") == (
        before == ["int8"] and now == "fp32"
    )
    assert ("--profile" in said) == (before == ["int8"] and now == "fp32")


def test_stored_embeddings_have_no_tower_to_tell_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say([stored(tmp_path)], ["int8"], "fp32", tmp_path / "out")
    said = capsys.readouterr().err
    assert "1 shards were scored with other settings or another model, and are redone" in said
    assert "int8" not in said


def test_a_profile_of_stored_embeddings_alone_is_refused(
    tars: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("-o", tmp_path / "out", "--profile", "int8", "--repository", tmp_path / "none")
    file = stored(tmp_path)
    assert score(file, *given) == 2
    assert (
        f"--profile int8 is for the image tower; {file} holds stored embeddings alone, which "
        "only the heads score: leave --profile away\n" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    # A machine's share of a mixed input may hold none but these, and is as the others' are.
    for index in range(3):
        assert score(file, *tars, *given, "--shard-index", index, "--shard-count", 3) == 2
        assert "does not exist; make it with: aesthetic export" in capsys.readouterr().err
