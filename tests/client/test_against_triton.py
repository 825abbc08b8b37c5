"""Both clients, over both protocols, against the real Triton with a tiny tower."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aesthetic_client import (
    HEADS,
    Client,
    EmbeddingError,
    ImageError,
    InputError,
    NotServedError,
    UnavailableError,
    contract,
    prepare_pixels,
)
from aesthetic_client.pixels import PREPROCESSING_ID
from callers import CALLERS
from generated_images import encoded, generated, texture

pytestmark = pytest.mark.triton

IMAGES = [
    encoded(Image.fromarray(texture(100 + 9 * k, 300 - 8 * k, 3, k)), "JPEG") for k in range(12)
]


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, tiny_server: Any) -> str:
    return getattr(tiny_server, f"{request.param}_url")


@pytest.fixture(params=CALLERS)
def client(request: pytest.FixtureRequest, url: str) -> Iterator[Any]:
    with CALLERS[request.param](url, timeout_s=30) as client:
        yield client


@pytest.fixture(scope="module")
def expected(tiny_repository: Path) -> list[tuple[dict[str, float], np.ndarray]]:
    """Scores and embeddings of IMAGES without Triton: prepared here, run in bare ONNX Runtime."""
    import onnxruntime

    tower, heads = (
        onnxruntime.InferenceSession(str(tiny_repository / name / "1" / "model.onnx"))
        for name in ("clip_image", "aesthetic_heads")
    )
    (embeddings,) = tower.run(None, {"pixels": np.stack([prepare_pixels(i) for i in IMAGES])})
    names = [head.output for head in HEADS]
    scores = heads.run(names, {"embedding": embeddings})
    rows = [
        {head.name: float(column[row, 0]) for head, column in zip(HEADS, scores, strict=True)}
        for row in range(len(IMAGES))
    ]
    return list(zip(rows, embeddings, strict=True))


def assert_equal(result: Any, expected: tuple[dict[str, float], np.ndarray]) -> None:
    assert result.scores == pytest.approx(expected[0], abs=5e-4)
    assert np.abs(result.embedding - expected[1]).max() < 1e-5


def test_one_image(client: Any, expected: Any) -> None:
    result = client.score(IMAGES[0], heads="all", embedding=True)
    assert_equal(result, expected[0])
    assert isinstance(result.score, float) and result.score == result.scores[HEADS[0].name]
    alone = client.score(IMAGES[0])
    assert alone.scores == {HEADS[0].name: pytest.approx(result.score, abs=1e-4)}
    assert alone.embedding is None
    assert np.abs(client.embed(IMAGES[0]) - expected[0][1]).max() < 1e-5


@pytest.mark.parametrize("decode", ["server", "client"])
@pytest.mark.parametrize("in_flight", [1, 5, 64])
def test_many_images_in_order(client: Any, expected: Any, decode: str, in_flight: int) -> None:
    options = {"heads": "all", "embedding": True, "decode": decode, "in_flight": in_flight}
    results = list(client.score_many(iter(IMAGES), **options))
    assert [result.index for result in results] == list(range(len(IMAGES)))
    for result, image, row in zip(results, IMAGES, expected, strict=True):
        assert result.ok and result.source is image
        assert_equal(result, row)


@pytest.mark.parametrize("decode", ["server", "client"])
def test_a_bad_item_never_stops_the_rest(client: Any, decode: str, tmp_path: Path) -> None:
    cut = IMAGES[1][: len(IMAGES[1]) // 2]
    items = [IMAGES[0], b"text", cut, 5, tmp_path / "gone.jpg", IMAGES[2], b"", IMAGES[3]]
    results = list(client.score_many(items, decode=decode, in_flight=4))
    assert [result.ok for result in results] == [
        True,
        False,
        False,
        False,
        False,
        True,
        False,
        True,
    ]
    codes = {r.index: r.error.code for r in results if isinstance(r.error, ImageError)}
    assert codes == {1: "unknown_format", 2: "corrupt", 4: "unreadable", 6: "empty"}
    assert str(results[2].error).startswith("images[2]: ")
    assert isinstance(results[3].error, InputError)
    with pytest.raises(ImageError):
        _ = results[1].score
    assert results[7].score == pytest.approx(client.score(IMAGES[3]).score, abs=1e-4)


def test_the_callers_iterable_may_fail(client: Any) -> None:
    def failing() -> Iterator[bytes]:
        yield from IMAGES[:3]
        raise OSError("the disk went away")

    seen = []
    with pytest.raises(OSError, match="went away"):
        for result in client.score_many(failing()):
            seen.append(result.index)
    assert seen in ([0, 1, 2], [])  # the collecting async caller has nothing to show


def test_a_single_image_is_no_iterable(client: Any) -> None:
    for single in (IMAGES[0], "photo.jpg", Path("photo.jpg")):
        with pytest.raises(InputError, match="takes an iterable"):
            list(client.score_many(single))


def test_bad_images_are_refused_by_the_server_with_their_code(client: Any) -> None:
    for data, code in (
        (b"text", "unknown_format"),
        (encoded(Image.new("RGB", (4, 4)), "GIF"), "format_not_allowed"),
        (IMAGES[0][:-300], "corrupt"),
    ):
        with pytest.raises(ImageError) as caught:
            client.score(data)
        assert caught.value.code == code
        assert "0x" not in str(caught.value) and "/" not in str(caught.value)


def test_stored_embeddings(client: Any, expected: Any) -> None:
    vectors = np.stack([row[1] for row in expected])
    scores = client.score_embeddings(vectors)
    assert scores.shape == (len(IMAGES),) and scores.dtype == np.float32
    assert scores.tolist() == pytest.approx([row[0][HEADS[0].name] for row in expected], abs=1e-4)
    by_head = client.score_embeddings_by_head(vectors * 7, normalize=True)
    for head in HEADS:
        theirs = [row[0][head.name] for row in expected]
        assert by_head[head.name].tolist() == pytest.approx(theirs, abs=5e-4)
    many = np.tile(vectors, (contract.MAX_EMBEDDING_BATCH // len(vectors) + 2, 1))
    assert np.array_equal(
        client.score_embeddings(many, head="sa_0_4_vit_l_14_linear").reshape(-1, len(vectors))[-1],
        client.score_embeddings(many, head="sa_0_4_vit_l_14_linear")[: len(vectors)],
    )
    assert client.score_embeddings(vectors[:0]).shape == (0,)
    with pytest.raises(EmbeddingError, match=r"embeddings\[0\]: has norm"):
        client.score_embeddings(vectors * 2)


def test_any_model_by_its_tensors(client: Any, expected: Any) -> None:
    pixels = np.stack([prepare_pixels(image) for image in IMAGES[:8]])
    embeddings = np.stack([row[1] for row in expected[:8]])
    answer = client.infer(contract.CLIP_IMAGE, {"pixels": pixels})
    assert list(answer) == ["embedding"] and answer["embedding"].dtype == np.float32
    assert np.abs(answer["embedding"] - embeddings).max() < 1e-5
    # one output of an ensemble, whose other steps must run all the same
    answer = client.infer(contract.AESTHETIC, {"image": IMAGES[:3]}, outputs=["aesthetic_score"])
    assert list(answer) == ["aesthetic_score"]
    scores = [row[0][HEADS[0].name] for row in expected[:3]]
    assert answer["aesthetic_score"][:, 0].tolist() == pytest.approx(scores, abs=5e-4)
    with pytest.raises(InputError, match=r"clip_image takes 1 to 8 items a request, got 12"):
        client.infer(contract.CLIP_IMAGE, {"pixels": np.zeros((12, 224, 224, 3), np.uint8)})
    with pytest.raises(NotServedError, match="aesthetic_dali"):
        client.infer(contract.AESTHETIC_DALI, {"image": IMAGES[:1]})
    with pytest.raises(ImageError, match="unknown_format"):
        client.infer(contract.PREPROCESS, {"image": [b"text"]})


def test_the_server_says_what_it_serves(client: Any) -> None:
    assert client.heads() == HEADS
    health = client.health()
    assert health.live and health.ready and health.server.startswith("triton 2.")
    assert health.models == {model.name: True for model in contract.MODELS}
    provenance = client.provenance()
    assert provenance["clip_image"]["weights"] == contract.SEEDED_WEIGHTS
    assert provenance["clip_image"]["activation"] == "quick_gelu"
    assert provenance["clip_image"]["parity"]["passed"] is True
    assert len(provenance["aesthetic_heads"]["heads"]) == len(HEADS)
    assert provenance["preprocess"] == {"preprocessing": PREPROCESSING_ID}
    assert list(client.provenance([contract.CLIP_IMAGE])) == ["clip_image"]
    with pytest.raises(NotServedError, match="clip_text"):
        client.provenance([contract.CLIP_TEXT])
    with pytest.raises(InputError, match="no head named"):
        client.score(IMAGES[0], heads="beauty")


def test_server_pixels_equal_the_local_ones(tiny_server: Any) -> None:
    """Bit for bit through the `preprocess` model, all modes and quirks."""
    import tritonclient.grpc as grpc

    with grpc.InferenceServerClient(tiny_server.grpc_url.removeprefix("grpc://")) as triton:
        for name, data in generated():
            image = grpc.InferInput("image", [1, 1], "BYTES")
            image.set_data_from_numpy(np.array([[data]], dtype=np.object_))
            served = triton.infer("preprocess", [image], client_timeout=30).as_numpy("pixels")
            assert np.array_equal(served[0], prepare_pixels(data)), name


def test_nobody_there() -> None:
    for url in ("grpc://127.0.0.1:9", "http://127.0.0.1:9"):
        for kind in CALLERS.values():
            with kind(url, retry_s=0.5, timeout_s=5) as client:
                assert not client.health().live
                with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
                    client.score(IMAGES[0])
                (result,) = client.score_many([IMAGES[0]])
                assert isinstance(result.error, UnavailableError)


def test_leaving_a_stream_early_leaves_nothing_behind(tiny_server: Any) -> None:
    with Client(tiny_server.grpc_url, timeout_s=30) as client:
        stream = client.score_many(IMAGES * 10, in_flight=4)
        assert next(stream).ok
        stream.close()
        assert client.score(io.BytesIO(IMAGES[0])).ok
