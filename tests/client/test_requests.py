"""Requests for any model: what the contract says, or an error that says what differs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aesthetic_client import Client, contract
from aesthetic_client._requests import model_request
from aesthetic_client.contract import AESTHETIC_GRADIENT, Model
from aesthetic_client.errors import InputError

PERSONALIZE = contract.AESTHETIC_PERSONALIZE


def gradient_inputs(count: int = 2) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        tensor.name: random.random((count, *tensor.dims), dtype=np.float32)
        for tensor in AESTHETIC_GRADIENT.inputs
    }


def test_inputs_go_in_the_contracts_order_and_are_not_copied() -> None:
    given = gradient_inputs()
    request = model_request(AESTHETIC_GRADIENT, dict(reversed(given.items())))
    assert request.model == "aesthetic_gradient" and len(request) == 2
    assert [rows.tensor for rows in request.inputs] == list(AESTHETIC_GRADIENT.inputs)
    for rows in request.inputs:
        assert rows.items is given[rows.tensor.name]
        (content,) = rows.content()
        assert np.shares_memory(content, given[rows.tensor.name])
    assert request.outputs == ("score", "pixel_gradient", "embedding")


def test_outputs_are_those_asked_for_once_each() -> None:
    asked = model_request(AESTHETIC_GRADIENT, gradient_inputs(), iter(["embedding", "score"] * 2))
    assert asked.outputs == ("embedding", "score")
    assert model_request(AESTHETIC_GRADIENT, gradient_inputs(), "score").outputs == ("score",)
    ensemble = model_request(contract.CLIP_TEXT, {"prompt": ["a"]}, ["text_embedding"])
    assert ensemble.outputs == ("text_embedding", "last_hidden_state", "token_count")


@pytest.mark.parametrize(
    "prompts",
    [
        ["ein Bär", b"\0 ends \0"],
        ("ein Bär", b"\0 ends \0"),
        np.array(["ein Bär", b"\0 ends \0"], dtype=np.object_),
        np.array([["ein Bär"], [b"\0 ends \0"]], dtype=np.object_),
    ],
)
def test_bytes_are_bytes_or_text(prompts: Any) -> None:
    (rows,) = model_request(contract.CLIP_TEXT, {"prompt": prompts}).inputs
    assert rows.items == ["ein Bär".encode(), b"\0 ends \0"]
    assert b"".join(rows.content()) == b"\x08\0\0\0ein B\xc3\xa4r\x08\0\0\0\0 ends \0"
    assert rows.array().tolist() == [["ein Bär".encode()], [b"\0 ends \0"]]


def test_free_dims_are_the_arrays() -> None:
    encoded = np.arange(10, dtype=np.uint8).reshape(2, 5)
    (rows,) = model_request(contract.DALI_DECODE, {"encoded": encoded}).inputs
    assert rows.tensor.dims == (5,)


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        (PERSONALIZE, {"recipe": None}, r"takes prompt, .*, recipe; got prompt, aesthetic_emb"),
        (PERSONALIZE, {"steps": 3}, r"got prompt, aesthetic_embedding, recipe, steps"),
        (PERSONALIZE, {"recipe": ["{}"]}, r"got 2 of prompt, 2 of aesthetic_embedding, 1 of rec"),
        (PERSONALIZE, {"prompt": "a cat"}, r"prompt: expected a sequence of bytes or str, got str"),
        (PERSONALIZE, {"prompt": ["a", 5]}, r"prompt\[1\]: expected bytes or str, got int"),
        (PERSONALIZE, {"prompt": ["\ud800", "b"]}, r"prompt\[0\]: a str that UTF-8 cannot"),
        (PERSONALIZE, {"aesthetic_embedding": np.zeros((2, 768))}, "float32, got float64: cast"),
        (
            PERSONALIZE,
            {"aesthetic_embedding": np.zeros(768, np.float32)},
            r"aesthetic_embedding: expected shape \(n, 768\), got \(768,\)",
        ),
        (PERSONALIZE, {"aesthetic_embedding": [[1.0], [1.0, 2.0]]}, "embedding: not an array"),
        (
            contract.CLIP_TEXT_TOWER,
            {"tokens": np.zeros((2, 76), np.int64)},
            r"\(n, 77\), got \(2, 76\)",
        ),
        (contract.CLIP_TEXT_TOWER, {"tokens": np.zeros((2, 77), np.int32)}, "int64, got int32"),
        (contract.DALI_DECODE, {"encoded": np.zeros(5, np.uint8)}, r"shape \(n, any\), got \(5,\)"),
        (contract.CLIP_TEXT, {"prompt": []}, "clip_text takes 1 to 32 items a request, got 0"),
        (contract.CLIP_TEXT, {"prompt": ["a"] * 33}, "takes 1 to 32 items a request, got 33"),
    ],
)
def test_what_differs_is_said(model: Model, changes: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {}
    if model is PERSONALIZE:
        vectors = np.zeros((2, 768), np.float32)
        given = {"prompt": ["a", "b"], "aesthetic_embedding": vectors, "recipe": ["{}", "{}"]}
    given |= changes
    with pytest.raises(InputError, match=words):
        model_request(model, {name: value for name, value in given.items() if value is not None})


@pytest.mark.parametrize("inputs", [[("prompt", ["a"])], None, "prompt", 5])
def test_inputs_are_a_mapping(inputs: Any) -> None:
    words = f"clip_text takes a mapping of prompt; got {type(inputs).__name__}"
    with pytest.raises(InputError, match=words):
        model_request(contract.CLIP_TEXT, inputs)
    with pytest.raises(InputError, match="clip_text takes prompt; got 1, prompt"):
        model_request(contract.CLIP_TEXT, {1: ["a"], "prompt": ["a"]})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        *((["loss"], "asked for loss"), ([], "for nothing"), (5, "asked for 5")),
        *(([5], "asked for 5"), ([["score"]], "asked for .'score'"), (b"ab", "asked for 97, 98")),
    ],
)
def test_unknown_outputs_are_refused(outputs: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"gives score, pixel_gradient, embedding; .*{words}"):
        model_request(AESTHETIC_GRADIENT, gradient_inputs(), outputs)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (b"bytes", "expected text, got bytes"),
        ("a" * 2_001, "2001 characters"),
        ("\ud800", "UTF-8 cannot encode"),
    ],
)
def test_what_is_no_prompt_is_not_sent(prompt: Any, says: str) -> None:
    with (
        Client("127.0.0.1:1", retry_s=0) as nowhere,
        pytest.raises(InputError, match=rf"prompts\[1\]: .*{says}"),
    ):
        nowhere.embed_text(["fine", prompt])
