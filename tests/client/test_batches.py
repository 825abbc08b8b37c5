"""score_batch: one blocking request, whose results say what is wrong with each image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aesthetic_client import (
    DEFAULT_HEAD,
    ImageError,
    InputError,
    NotServedError,
    UnavailableError,
    contract,
    prepare_pixels,
)
from callers import CALLERS
from generated_images import encoded, texture

FILES = [encoded(Image.fromarray(texture(90 + k, 120, 3, k)), "JPEG") for k in range(8)]
CUT = FILES[1][: len(FILES[1]) // 2]


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, tiny_server: Any) -> str:
    return getattr(tiny_server, f"{request.param}_url")


@pytest.fixture(params=CALLERS)
def client(request: pytest.FixtureRequest, url: str) -> Iterator[Any]:
    with CALLERS[request.param](url, timeout_s=30) as client:
        yield client


@pytest.mark.triton
@pytest.mark.parametrize("decode", ["server", "client"])
def test_a_batch_equals_its_images_one_by_one(client: Any, decode: str) -> None:
    results = client.score_batch(FILES, heads="all", embedding=True, decode=decode)
    assert [result.index for result in results] == list(range(8))
    for result, file in zip(results, FILES, strict=True):
        alone = client.score(file, heads="all", embedding=True)
        assert result.source is file and result.scores == pytest.approx(alone.scores, abs=5e-4)
        assert np.abs(result.embedding - alone.embedding).max() < 1e-5


@pytest.mark.triton
@pytest.mark.parametrize("decode", ["server", "client"])
def test_bad_images_are_results_and_the_others_scores(
    client: Any, decode: str, tmp_path: Path
) -> None:
    pixels = prepare_pixels(FILES[3])  # among files: travels in a request of its own
    images = [FILES[0], b"text", CUT, FILES[2], pixels, tmp_path / "gone.jpg", b"", 5]
    results = client.score_batch(images, decode=decode)
    assert [result.ok for result in results] == [True, False, False, True, True, *[False] * 3]
    codes = {r.index: r.error.code for r in results if isinstance(r.error, ImageError)}
    assert codes == {1: "unknown_format", 2: "corrupt", 5: "unreadable", 6: "empty"}
    assert str(results[2].error).startswith("images[2]: ")
    for row, file in ((0, FILES[0]), (3, FILES[2]), (4, FILES[3])):
        assert results[row].scores == pytest.approx(client.score(file).scores, abs=5e-4)
        assert results[row].source is images[row]
    (single,) = client.score_batch([CUT], decode=decode)
    assert isinstance(single.error, ImageError) and single.error.code == "corrupt"


@pytest.mark.triton
def test_a_batch_has_a_size(client: Any) -> None:
    stacked = np.stack([prepare_pixels(file) for file in FILES])
    assert [list(result.scores) for result in client.score_batch(stacked)] == [
        [DEFAULT_HEAD.name]
    ] * contract.MAX_IMAGE_BATCH
    assert client.score_batch([]) == []
    with pytest.raises(InputError, match="at most 8 images, got 9"):
        client.score_batch([*FILES, FILES[0]])
    with pytest.raises(InputError, match="score_batch takes an iterable"):
        client.score_batch(FILES[0])
    with pytest.raises(InputError, match="no head named"):
        client.score_batch(FILES, heads="beauty")


@pytest.mark.triton
@pytest.mark.parametrize("kind", CALLERS)
def test_a_model_that_is_not_served_is_no_fault_of_an_image(
    kind: str, tiny_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = contract.Model("else", (), (), 8)
    monkeypatch.setattr(contract, "AESTHETIC", elsewhere)
    with CALLERS[kind](tiny_server.grpc_url) as client, pytest.raises(NotServedError, match="else"):
        client.score_batch(FILES[:2])


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_answer_is_raised(kind: str, protocol: str) -> None:
    with CALLERS[kind](f"{protocol}://127.0.0.1:9", retry_s=0.3) as client:
        assert not client.score_batch([b""])[0].ok  # nothing to send: no server is needed
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
            client.score_batch([FILES[0], b""])
