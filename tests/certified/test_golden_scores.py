"""The real heads, through the running server, against scores computed in float64."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aesthetic_client import HEADS, Client, EmbeddingError
from aesthetic_serve import EmbeddedServer
from callers import CALLERS
from towers import build_tiny_repository

pytestmark = pytest.mark.triton
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def server(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    target = tmp_path_factory.mktemp("heads") / "repository"
    with EmbeddedServer(build_tiny_repository(target, shared_data / "heads")) as server:
        yield server


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> Any:
    return json.loads((shared_data / "golden_scores.json").read_text())


def raw_embedding(path: Path) -> np.ndarray:
    """A published embedding as it was saved: fp16 or fp32, (768,) or (1, 768), any norm."""
    if path.suffix == ".npy":
        return np.load(path).reshape(-1)
    saved = torch.load(path, weights_only=True, map_location="cpu")
    return saved.detach().reshape(-1).numpy()


def original_score(head: str, folder: Path, unit: np.ndarray) -> np.ndarray:
    """The published head evaluated layer by layer in float64, nothing folded. (n, 768) -> (n,)"""
    state = torch.load(folder / f"{head}.pth", weights_only=True, map_location="cpu")
    layers = sorted({name.rsplit(".", 1)[0] for name in state if "." in name}, key=natural)
    value = torch.from_numpy(unit.astype(np.float64))
    if head.startswith("sac_public"):
        value = torch.nn.functional.normalize(value, dim=-1) * 768**0.5
    for at, layer in enumerate(layers or [""]):
        prefix = f"{layer}." if layer else ""
        weight, bias = state[f"{prefix}weight"].double(), state[f"{prefix}bias"].double()
        value = value @ weight.T + bias
        if "relu" in head and at < len(layers) - 1:
            value = value.relu()
    return value.reshape(-1).numpy()


def natural(name: str) -> int:
    digits = "".join(filter(str.isdigit, name))
    return int(digits) if digits else 0


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("kind", CALLERS)
def test_published_embeddings(
    server: EmbeddedServer, golden: Any, shared_data: Path, kind: str, protocol: str
) -> None:
    names = list(golden["scores"])
    assert len(names) == 12
    raw = [raw_embedding(shared_data / "aesthetic_embeddings" / name) for name in names]
    array = np.stack([vector.astype(np.float64) for vector in raw])
    with CALLERS[kind](getattr(server, f"{protocol}_url")) as client:
        served = client.score_embeddings_by_head(array, normalize=True)
        default = client.score_embeddings(array, normalize=True)
        with pytest.raises(EmbeddingError, match="has norm"):
            client.score_embeddings(array)
    for head in HEADS:
        expected = np.array([golden["scores"][name][head.name] for name in names])
        assert np.abs(served[head.name] - expected).max() <= TOLERANCE, head.name
    assert np.array_equal(default, served[HEADS[0].name])


def test_unnormalised_input_would_have_scored_wrong(golden: Any) -> None:
    """Why it is refused: the negative control is far from the golden score for all but one head."""
    for name, wrong in golden["negative_control_unnormalised_input"].items():
        for head in HEADS:
            far = abs(wrong[head.name] - golden["scores"][name][head.name])
            assert far < 1e-4 if head.name.startswith("sac_public") else far > 0.5


def test_unseen_embeddings(server: EmbeddedServer, shared_data: Path) -> None:
    rng = np.random.default_rng(2026)
    vectors = rng.normal(size=(3000, 768))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    with Client(server.grpc_url) as client:
        served = client.score_embeddings_by_head(unit)
    for head in HEADS:
        expected = original_score(head.name, shared_data / "heads", unit)
        assert np.abs(served[head.name] - expected).max() <= TOLERANCE, head.name


def test_the_original_layers_give_the_golden_scores(golden: Any, shared_data: Path) -> None:
    """The reference of the test above, itself held to the published figures."""
    for name, scores in golden["scores"].items():
        raw = raw_embedding(shared_data / "aesthetic_embeddings" / name).astype(np.float64)
        for head in HEADS:
            (found,) = original_score(
                head.name, shared_data / "heads", (raw / np.linalg.norm(raw))[None]
            )
            assert found == pytest.approx(scores[head.name], abs=5e-6)


def test_verify_passes_here(server: EmbeddedServer, shared_data: Path, capsys: Any) -> None:
    from aesthetic_client.cli import main

    folder = shared_data / "aesthetic_embeddings"
    assert main(["verify", "--url", server.grpc_url, "--golden", str(folder)]) == 0
    assert "PASS" in capsys.readouterr().out
