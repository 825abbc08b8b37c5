"""Requests and answers as values."""

from __future__ import annotations

import numpy as np
import pytest

from aesthetic_client import _wire, contract
from aesthetic_client.contract import DEFAULT_HEAD, HEADS
from aesthetic_client.errors import EmbeddingError, InputError, ServerError
from aesthetic_client.images import Encoded, Prepared


def unit(rows: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 768))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_encoded_images_go_as_bytes_to_the_ensemble() -> None:
    request = _wire.score_request([Encoded(b"one"), Encoded(b"three")], HEADS[:2])
    (rows,) = request.inputs
    assert request.model == "aesthetic" and rows.tensor is contract.IMAGE
    assert rows.array().dtype == np.object_
    assert rows.array().tolist() == [[b"one"], [b"three"]]
    assert b"".join(rows.content()) == b"\x03\0\0\0one\x05\0\0\0three"
    assert request.outputs == ("aesthetic_score", "ava_logos_l14_linearMSE", "embedding")


def test_prepared_pixels_go_as_one_batch() -> None:
    pixels = np.arange(224 * 224 * 3, dtype=np.uint32).reshape(224, 224, 3).astype(np.uint8)
    request = _wire.score_request([Prepared(pixels), Prepared(pixels + 1)], HEADS[:1])
    (rows,) = request.inputs
    assert request.model == "aesthetic_pixels" and rows.tensor is contract.PIXELS
    array = rows.array()
    assert array.shape == (2, 224, 224, 3) and np.array_equal(array[1], pixels + 1)
    assert b"".join(rows.content()) == array.tobytes()


def test_results_keep_rows_and_heads_apart() -> None:
    answer = {
        "aesthetic_score": np.array([[1.5], [-2.5]], np.float32),
        "sa_0_4_vit_l_14_linear": np.array([[12.25], [0.0]], np.float32),
        "embedding": unit(2),
    }
    heads = (HEADS[0], HEADS[3])
    first, second = _wire.score_results(answer, heads, True)
    assert first.scores == {HEADS[0].name: 1.5, HEADS[3].name: 12.25} and first.score == 1.5
    assert second.scores == {HEADS[0].name: -2.5, HEADS[3].name: 0.0}
    assert np.array_equal(second.embedding, answer["embedding"][1])
    assert all(result.embedding is None for result in _wire.score_results(answer, heads, False))


def test_embeddings_are_cut_at_the_served_batch() -> None:
    vectors = unit(contract.MAX_EMBEDDING_BATCH + 3)
    requests = _wire.embedding_requests(vectors, HEADS)
    assert [len(request) for request in requests] == [contract.MAX_EMBEDDING_BATCH, 3]
    assert _wire.embedding_requests(vectors[:0], HEADS) == []
    assert _wire.embedding_scores([], [DEFAULT_HEAD])[DEFAULT_HEAD.name].shape == (0,)


def test_fp16_unit_vectors_pass_and_stay_as_they_are() -> None:
    stored = unit(5).astype(np.float16)
    assert np.array_equal(_wire.unit_embeddings(stored, normalize=False), stored.astype(np.float32))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (unit(3) * np.float32(9.8), r"embeddings\[0\]: has norm 9.8, .*normalize=True.*2 more"),
        (np.vstack([unit(2), 1.01 * unit(1)]), r"embeddings\[2\]: has norm 1.01"),
        (np.full((1, 768), np.nan, np.float32), "NaN"),
        (unit(4)[:, :512], r"\(n, 768\).*got \(4, 512\)"),
        (unit(1)[0], r"got \(768,\)"),
        (np.ones((2, 768), int), "got int64"),
    ],
)
def test_wrong_vectors_are_refused_with_their_row(broken: np.ndarray, words: str) -> None:
    with pytest.raises(EmbeddingError, match=words):
        _wire.unit_embeddings(broken, normalize=False)


def test_normalizing_is_exact_for_half_precision_features() -> None:
    features = (unit(3).astype(np.float64) * [[18.6], [0.54], [300]]).astype(np.float16)
    made = _wire.unit_embeddings(features, normalize=True)
    assert made.dtype == np.float32
    assert np.allclose(np.linalg.norm(made.astype(np.float64), axis=1), 1, atol=1e-7)
    with pytest.raises(EmbeddingError, match="all zero"):
        _wire.unit_embeddings(np.zeros((1, 768), np.float32), normalize=True)


def test_heads_are_found_by_either_name_and_in_order() -> None:
    assert _wire.resolve_heads(None, ()) == (DEFAULT_HEAD,)
    assert _wire.resolve_heads("all", HEADS) == HEADS
    asked = ["sa_0_4_vit_l_14_linear", "aesthetic_score", "sac+logos+ava1-l14-linearMSE"]
    assert _wire.resolve_heads(asked, HEADS) == (HEADS[3], HEADS[0])
    with pytest.raises(InputError, match=r"no head named 'vibes' is served; these are: sac\+logos"):
        _wire.resolve_heads("vibes", HEADS)


def test_heads_and_provenance_come_from_the_served_config() -> None:
    config = {
        "output": [{"name": "aesthetic_score"}, {"name": "mine"}],
        "parameters": {
            "intra_op_thread_count": {"string_value": "1"},
            "provenance.weights": {"string_value": "published"},
            "provenance.heads": {"string_value": '[{"name": "my taste", "output": "mine"}]'},
            "provenance.note": {"string_value": "{not json"},
        },
    }
    names = [(head.name, head.output) for head in _wire.heads_from_config(config)]
    assert names == [(DEFAULT_HEAD.name, "aesthetic_score"), ("my taste", "mine")]
    assert _wire.provenance_from_config(config) == {
        "weights": "published",
        "heads": [{"name": "my taste", "output": "mine"}],
        "note": "{not json",
    }


def test_a_short_answer_is_an_error() -> None:
    request = _wire.score_request([Encoded(b"x"), Encoded(b"y")], HEADS[:1])
    whole = {"aesthetic_score": np.zeros((2, 1)), "embedding": unit(2)}
    _wire.check_answer(request, whole)
    for broken in ({**whole, "embedding": unit(1)}, {"embedding": unit(2)}):
        with pytest.raises(ServerError, match="aesthetic answered without 2 rows of"):
            _wire.check_answer(request, broken)
