"""`aesthetic curate score --profile`: which tower scored is in the stats, and never mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curate_commands import rows_of, stats_of
from curate_datasets import jpegs, write_tar

from aesthetic_client.cli import main
from aesthetic_client.contract import INT8
from aesthetic_client.pixels import prepare_pixels
from aesthetic_curate.errors import MixedResultsError
from aesthetic_curate.results import Results
from aesthetic_serve import EmbeddedServer

SHARDS = ("a", "b")


def score(*arguments: object) -> int:
    return main(["curate", "score", *map(str, arguments), "--embedding", "float32"])


def embeddings_of(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([row["embedding"] for row in rows], np.float32)


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
        "are redone" in said
    )
    after = stats_of(out)
    assert after["b"] == before["b"]
    assert after["a"]["provenance"]["clip_image"]["precision"] == "int8"
    assert after["a"]["fingerprint"] != before["a"]["fingerprint"]
    with pytest.raises(MixedResultsError, match=r"differ in .*provenance\.clip_image"):
        Results.open(str(out))

    artifact = tiny_cpu_repository / "clip_image" / "1" / INT8.artifact
    pixels = np.stack([prepare_pixels(data) for data in images[:3]])
    found = embeddings_of(rows_of(out)["a"])
    np.testing.assert_allclose(found, openvino_embedder(artifact)(pixels), atol=5e-3)
    assert np.abs(found - embeddings_of(rows["a"])).max() > 1e-4


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
