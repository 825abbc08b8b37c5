"""Columns of a batch with scores beside them: rows kept, bad ones flagged, any form of image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curate_datasets import jpegs, unit_embeddings
from PIL import Image

from aesthetic_client import Client, InputError, UnavailableError
from aesthetic_client.contract import HEADS
from aesthetic_curate.column_scorer import AestheticScorer

pytestmark = pytest.mark.triton

CLOSE = {"abs": 5e-4}  # two requests differ by as much when Triton batches them differently
JPEGS = jpegs(4)


@pytest.fixture(scope="module")
def scores(tiny_server: Any) -> list[float]:
    """The client's scores of JPEGS."""
    with Client(tiny_server.grpc_url) as client:
        return [result.score for result in client.score_many(JPEGS)]


def test_a_batch_keeps_its_rows_and_flags_the_bad_ones(
    tiny_server: Any, scores: list[float]
) -> None:
    scorer = AestheticScorer(
        tiny_server.grpc_url, heads="all", image_column="bytes", embedding=True
    )
    batch = {
        "bytes": np.array([JPEGS[0], b"no image", None, JPEGS[1][:300], b"", JPEGS[2]], object),
        "status": np.arange(6),
    }
    found = scorer(batch)
    scorer.close()
    assert list(found["source_status"]) == list(range(6)) and found["bytes"] is batch["bytes"]
    bad = "bad_image"
    assert list(found["status"]) == ["ok", bad, "no_image", bad, bad, "ok"]
    assert found["aesthetic_score"].dtype == np.float32
    expected = [scores[0], *[np.nan] * 4, scores[2]]
    assert found["aesthetic_score"] == pytest.approx(expected, nan_ok=True, **CLOSE)
    assert {head.output for head in HEADS} < set(found)
    assert [bool(error) for error in found["error"]] == [False, True, False, True, True, False]
    assert found["error"][1].endswith("[unknown_format]")
    norms = np.linalg.norm(found["embedding"], axis=1)
    assert norms == pytest.approx([1, *[np.nan] * 4, 1], nan_ok=True, abs=1e-5)


def test_paths_structs_and_arrays_are_images_too(
    tiny_server: Any, scores: list[float], tmp_path: Path
) -> None:
    path = tmp_path / "1.jpg"
    path.write_bytes(JPEGS[1])
    array = np.asarray(Image.open(io.BytesIO(JPEGS[3])).convert("RGB"))
    image = np.empty(5, object)
    image[:] = [{"bytes": JPEGS[0], "path": None}, str(path), {}, array, str(tmp_path / "gone")]
    scorer = AestheticScorer([tiny_server.grpc_url, tiny_server.http_url], decode="client")
    found = scorer({"image": image})
    scorer.close()
    assert list(found["status"]) == ["ok", "ok", "no_image", "ok", "unreadable"]
    expected = [scores[0], scores[1], np.nan, scores[3], np.nan]
    assert found["aesthetic_score"] == pytest.approx(expected, nan_ok=True, **CLOSE)


def test_what_cannot_work_is_said(tiny_server: Any) -> None:
    with pytest.raises(InputError, match="no column 'image'; there are: jpg"):
        AestheticScorer(tiny_server.grpc_url)({"jpg": np.array([b""], object)})
    with pytest.raises(InputError, match="embedding_column already"):
        AestheticScorer(tiny_server.grpc_url, embedding_column="e", embedding=True)
    with pytest.raises(InputError, match="'beauty' is served"):
        AestheticScorer(tiny_server.grpc_url, heads="beauty")({"image": np.array([b""], object)})
    with pytest.raises(UnavailableError, match=r"no answer for 0.3 s from 127.0.0.1:1"):
        AestheticScorer("127.0.0.1:1", retry_s=0.3)({"image": np.array([JPEGS[0]], object)})


def test_stored_embeddings_are_scored(tiny_server: Any) -> None:
    vectors = unit_embeddings(6)
    with Client(tiny_server.grpc_url) as client:
        expected = client.score_embeddings(vectors)
    scorer = AestheticScorer(tiny_server.grpc_url, embedding_column="embedding")
    found = scorer({"embedding": vectors.astype(np.float16)})
    assert found["aesthetic_score"] == pytest.approx(expected, abs=0.02)
    rows = np.empty(6, object)
    rows[:] = [vectors[0].tolist(), vectors[1] * 2, None, vectors[3][:512], "text", vectors[5]]
    found = scorer({"embedding": rows})
    bad = "bad_embedding"
    assert list(found["status"]) == ["ok", *[bad] * 4, "ok"]
    assert found["aesthetic_score"] == pytest.approx(
        [expected[0], *[np.nan] * 4, expected[5]], nan_ok=True, abs=1e-5
    )
    assert "norm 2" in found["error"][1] and "768" in found["error"][3]
    free = AestheticScorer(tiny_server.grpc_url, embedding_column="embedding", normalize=True)
    assert free({"embedding": vectors * 3})["aesthetic_score"] == pytest.approx(expected, abs=1e-5)
