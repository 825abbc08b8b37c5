"""The whole ViT-L/14 (random weights, true architecture) through Triton, against open_clip."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aesthetic_client import HEADS, Client
from aesthetic_serve import EmbeddedServer
from certified.test_golden_scores import original_score
from generated_images import encoded

pytestmark = [pytest.mark.slow, pytest.mark.triton, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(full_repository: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(full_repository) as server:
        yield server


@pytest.fixture(scope="module")
def files(photographs: list[Path]) -> list[bytes]:
    """Every photograph as it is, and some of the PNG as JPEG."""
    as_they_are = [path.read_bytes() for path in photographs]
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in as_they_are[:5]]
    return as_they_are + [encoded(image, "JPEG", quality=92) for image in images]


@pytest.fixture(scope="module")
def reference(files: list[bytes]) -> np.ndarray:
    """The way a user would write it: open_clip's model and transform, image by image."""
    from aesthetic_export.openclip import open_clip_transformer

    open_clip_transformer()
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-L-14-quickgelu", pretrained=None).eval()
    transform = open_clip.image_transform(224, is_train=False)
    batch = torch.stack([transform(Image.open(io.BytesIO(data))) for data in files])
    with torch.no_grad():
        features = torch.cat([model.encode_image(part) for part in batch.split(4)])
    return torch.nn.functional.normalize(features, dim=-1).numpy()


def test_scores_equal_the_reference(
    server: EmbeddedServer, files: list[bytes], reference: np.ndarray, shared_data: Path
) -> None:
    with Client(server.grpc_url, timeout_s=300) as client:
        results = list(client.score_many(files, heads="all", embedding=True))
    embeddings = np.stack([result.embedding for result in results]).astype(np.float64)
    cosines = np.sum(embeddings * reference, axis=1) / np.linalg.norm(reference, axis=1)
    assert cosines.min() > 0.999999
    for head in HEADS:
        expected = original_score(head.name, shared_data / "heads", reference)
        found = np.array([result.scores[head.name] for result in results])
        assert np.abs(found - expected).max() < 1e-3, head.name
    # Images that score alike would let a mix-up of the batch pass.
    assert np.unique(np.round(found, 4)).size > len(files) // 2


def test_first_score_of_a_cold_start(full_repository: Path, photographs: list[Path]) -> None:
    """From the command to the table. Shown, not judged: a busy machine must not fail the tests."""
    start = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "aesthetic_client.cli", "score", photographs[0]),
            *("--repository", full_repository),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING: clip_image has weights: seeded, scores are meaningless" in done.stderr
    assert photographs[0].name in done.stdout
    print(f"start to table: {time.monotonic() - start:.1f} s")


def test_the_server_says_that_the_scores_are_meaningless(server: EmbeddedServer) -> None:
    with Client(server.grpc_url) as client:
        provenance: dict[str, Any] = client.provenance()
    assert provenance["clip_image"]["weights"] == "seeded, scores are meaningless"
    assert provenance["clip_image"]["parity"]["min_cosine"] > 0.999999
    assert provenance["aesthetic_heads"]["weights"] == "published"
