"""Prompts through the real Triton: tokens, embeddings, hidden states and personalisation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from aesthetic_client import Client, DeadlineError, InputError, NotServedError, ServerError
from aesthetic_client.contract import (
    AESTHETIC_GRADIENT,
    AESTHETIC_PERSONALIZE,
    CLIP_TEXT,
    CLIP_TEXT_TOWER,
    MAX_PROMPT_BATCH,
    PERSONALIZE,
    TEXT,
    TOKENIZE,
)
from aesthetic_client.tokenizer import END, PAD_END, START, TruncationWarning, tokenize
from aesthetic_export.towers import Tower
from aesthetic_guidance.cli import personalize as command
from aesthetic_guidance.embeddings import AestheticEmbedding
from aesthetic_guidance.personalize import Recipe, personalize
from aesthetic_guidance.remote_personalize import personalize_remote
from aesthetic_guidance.text_models import embed_text
from callers import CALLERS
from text_towers import SERVED_TEXT, build_text_repository, tiny_text_tower

PROMPTS = ["a photo of a cat", "", "Hills of Tuscany, oil on canvas", "漢字 🏳️‍🌈 &amp;"]
LONG = "cat " * 75 + "dog"
E = np.random.default_rng(7).standard_normal(768).astype(np.float32)
LONGEST = '{"steps": 200}'  # a minute and more a row
SOON_S = 30
QUICK = '{"steps": 1, "lr": 0.01, "optimizer": "ascent"}'


@pytest.fixture(scope="module")
def tower() -> Tower:
    return tiny_text_tower(1, SERVED_TEXT)


@pytest.fixture(scope="module")
def repository(tower: Tower, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_text_repository(tmp_path_factory.mktemp("text") / "repository", tower)


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Any]:
    from aesthetic_serve import EmbeddedServer

    with EmbeddedServer(repository, start_timeout_s=90) as one:
        yield one


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Client]:
    with Client(server.grpc_url) as one:
        yield one


def personalized(client: Client, *rows: tuple[Any, Any, str]) -> dict[str, np.ndarray]:
    prompts, embeddings, recipes = zip(*rows, strict=True)
    inputs = {
        "prompt": prompts,
        "aesthetic_embedding": np.stack(embeddings),
        "recipe": recipes,
    }
    return client.infer(AESTHETIC_PERSONALIZE, inputs)


def test_artifacts_say_where_they_come_from(repository: Path) -> None:
    tokenize_one = json.loads((repository / "tokenize/1/provenance.json").read_text())
    (digest,) = tokenize_one["artifact_sha256"].values()
    assert digest == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
    tower_one = json.loads((repository / "clip_text_tower/1/provenance.json").read_text())
    assert tower_one["parity"]["passed"] and tower_one["parity"]["batch_sizes"] == [1, 5]
    assert set(tower_one["artifact_sha256"]) == {"model.onnx", "model.onnx.data"}
    weights = json.loads((repository / "aesthetic_personalize/1/provenance.json").read_text())
    for field in ("weights", "source", "activation", "precision"):
        assert tower_one[field] == weights[field]


@pytest.mark.triton
def test_the_server_says_where_they_come_from(client: Client) -> None:
    found = client.provenance((*TEXT.models, *PERSONALIZE.models))
    assert set(found) == {"tokenize", "clip_text_tower", "aesthetic_personalize"}
    assert found["aesthetic_personalize"]["source"] == "seeded:1"


@pytest.mark.triton
def test_tokens_are_the_tokenizers(client: Client) -> None:
    answer = client.infer(TOKENIZE, {"prompt": [*PROMPTS, LONG]})
    with pytest.warns(UserWarning, match="76 tokens"):
        assert np.array_equal(answer["tokens"], tokenize([*PROMPTS, LONG], pad=PAD_END))
    assert answer["token_count"].ravel().tolist() == [5, 0, 7, 7, 76]


@pytest.mark.triton
def test_embeddings_and_hidden_states_are_open_clips(client: Client, tower: Tower) -> None:
    answer = client.infer(CLIP_TEXT, {"prompt": PROMPTS})
    with torch.no_grad():
        features, hidden = tower.module(torch.from_numpy(tokenize(PROMPTS, pad=PAD_END)))
    expected = features.numpy() / np.linalg.norm(features, axis=1, keepdims=True)
    assert np.abs(answer["text_embedding"] - expected).max() < 1e-5
    assert np.abs(answer["last_hidden_state"] - hidden.numpy()).max() < 1e-4
    assert answer["last_hidden_state"].shape == (4, 77, 768)


@pytest.mark.triton
def test_a_bad_prompt_harms_no_neighbour(client: Client) -> None:
    alone = client.infer(CLIP_TEXT, {"prompt": ["a cat"]})
    bad: list[Any] = [b"\xff\xfe", "a" * 2_001]

    def ask(prompt: Any) -> Any:
        try:
            return client.infer(CLIP_TEXT, {"prompt": [prompt]})
        except (InputError, ServerError) as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, ["a cat", *bad, "a cat", *bad, "a cat", "a cat"]))
    for at in (1, 4):
        assert "prompts[0]: not UTF-8 from byte 0" in str(results[at])
        assert "prompts[0]: 2001 characters" in str(results[at + 1])
    for result in (results[0], results[3], results[6], results[7]):
        assert np.abs(result["text_embedding"] - alone["text_embedding"]).max() < 1e-6


@pytest.mark.triton
def test_what_is_no_token_gives_nan_and_harms_no_neighbour(client: Client) -> None:
    tokens = tokenize(["a cat"] * 3, pad=PAD_END)
    tokens[0, 5], tokens[2, 0] = 49408, -1
    answer = client.infer(CLIP_TEXT_TOWER, {"tokens": tokens})
    for array in answer.values():
        assert np.isnan(array[[0, 2]]).all() and not np.isnan(array[1]).any()
    assert tokens[1, 0] == START and tokens[1, -1] == END


@pytest.mark.triton
def test_a_personalised_prompt_is_the_one_computed_here(client: Client, tower: Tower) -> None:
    recipe = Recipe(steps=2, lr=0.01, optimizer="ascent", weight=0.7, slerp=True, negative=True)
    (found,) = personalize_remote("a cat", torch.from_numpy(3 * E), client, recipe)
    local = personalize("a cat", E, tower, **vars(recipe))
    assert found.prompt == "a cat"
    assert found.agreement == pytest.approx(local.agreement, abs=1e-5)
    assert found.agreement[2] < found.agreement[0] - 1e-3
    assert (found.embedding - local.embedding).abs().max() < 1e-5
    assert (found.last_hidden_state - local.last_hidden_state).abs().max() < 1e-4


@pytest.mark.triton
def test_nothing_leaks_between_requests_or_rows(client: Client) -> None:
    moved, still = ("a cat", E, QUICK), (LONG, -E, '{"steps": 0}')
    before, alone = personalized(client, still), personalized(client, moved)
    together = personalized(client, moved, still)
    after = personalized(client, still)
    assert together["token_count"].ravel().tolist() == [2, 76]
    assert together["agreement"].shape == (2, 2)
    assert together["agreement"][0, 1] - together["agreement"][0, 0] > 1e-3
    assert np.isnan(together["agreement"][1, 1])
    for row, one in ((0, alone), (1, before), (1, after)):
        for name in ("text_embedding", "last_hidden_state", "token_count"):
            assert np.array_equal(one[name][0], together[name][row]), (name, row)
        steps = one["agreement"].shape[1]
        assert np.array_equal(one["agreement"][0], together["agreement"][row, :steps])


@pytest.mark.triton
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ((b"\xff", E, "{}"), r"prompt\[0\]: not UTF-8"),
        (("x" * 2_001, E, "{}"), r"prompt\[0\]: 2001 characters"),
        (("a", E * np.nan, "{}"), r"aesthetic_embedding\[0\]"),
        (("a", E * 0, "{}"), r"aesthetic_embedding\[0\]"),
        (("a", E, "[]"), r"recipe\[0\]: expected a JSON object"),
        (("a", E, '{"step": 1}'), r"recipe\[0\]: 'step' is no field"),
        (("a", E, '{"steps": "1"}'), r"recipe\[0\]: steps='1' is not int"),
        (("a", E, '{"lr": NaN}'), r"recipe\[0\]: lr=nan"),
        (("a", E, '{"steps": 201}'), r"recipe\[0\]: steps=201: .* at most 200"),
        (("a", E, QUICK.replace("0.01", "1e29")), r"recipe\[0\]: lr=.* too large"),
    ],
)
def test_what_cannot_be_personalised_is_named(client: Client, row: Any, says: str) -> None:
    with pytest.raises((InputError, ServerError), match=says):
        personalized(client, row)


@pytest.mark.triton
def test_the_row_that_cannot_be_personalised_is_named(client: Client) -> None:
    with pytest.raises((InputError, ServerError), match=r"aesthetic_embedding\[1\]: .*NaN"):
        personalized(client, ("a cat", E, '{"steps": 0}'), ("a cat", E * np.nan, "{}"))


@pytest.mark.triton
def test_no_row_is_computed_where_another_cannot_be(server: Any) -> None:
    long, bad = [("a cat", E, LONGEST)] * 7, ("a cat", E, '{"stepps": 1}')
    expected = pytest.raises((InputError, ServerError), match=r"recipe\[7\]: 'stepps' is no field")
    with Client(server.grpc_url, timeout_s=SOON_S) as one, expected:
        personalized(one, *long, bad)


@pytest.mark.triton
def test_personalising_ends_where_the_client_has_gone(server: Any) -> None:
    with Client(server.grpc_url, timeout_s=0.5, retry_s=0) as one, pytest.raises(DeadlineError):
        personalized(one, *[("a cat", E, LONGEST)] * 8)
    with Client(server.grpc_url, timeout_s=SOON_S) as one:
        answer = personalized(one, ("a cat", E, '{"steps": 0}'))
    assert answer["agreement"].shape == (1, 1)


@pytest.mark.triton
@pytest.mark.parametrize(("protocol", "caller"), [("grpc", "async"), ("http", "sync")])
def test_clients_embed_any_number_of_prompts(server, protocol, caller, tower: Tower) -> None:
    prompts = [f"{number} cats" for number in range(MAX_PROMPT_BATCH + 1)]
    with CALLERS[caller](getattr(server, f"{protocol}_url"), timeout_s=60) as client:
        result = client.embed_text(prompts)
        one = client.embed_text(prompts[-1])
        none = client.embed_text([])
    assert result.embeddings.shape == (33, 768) and result.last_hidden_state.shape == (33, 77, 768)
    assert none.embeddings.shape == (0, 768) and none.last_hidden_state.shape == (0, 77, 768)
    assert np.abs(np.linalg.norm(result.embeddings, axis=1) - 1).max() < 1e-5
    assert np.abs(result.embeddings[-1] - one.embeddings[0]).max() < 1e-5
    local = embed_text(prompts[::8], tower).numpy()
    assert np.abs(result.embeddings[::8] - local).max() < 1e-5


@pytest.mark.triton
def test_a_cut_prompt_is_warned_of(client: Client) -> None:
    with pytest.warns(TruncationWarning, match=r"prompts\[1\] has 76 tokens") as caught:
        result = client.embed_text(["a cat", LONG])
    assert [warning.filename for warning in caught] == [__file__]
    assert result.token_count.tolist() == [2, 76]


@pytest.mark.triton
def test_a_server_without_the_add_on_says_how_to_add_it(client: Client) -> None:
    inputs = {
        "float_pixels": np.zeros((1, 3, 224, 224), np.float32),
        "head_weights": np.zeros((1, 5), np.float32),
        "direction": np.zeros((1, 768), np.float32),
    }
    with pytest.raises(NotServedError, match="aesthetic export --with gradient"):
        client.infer(AESTHETIC_GRADIENT, inputs)


@pytest.mark.triton
def test_personalize_remote_warns_and_refuses_as_personalize_does(client: Client) -> None:
    with pytest.warns(TruncationWarning, match=r"prompts\[1\]") as caught:
        found = personalize_remote(["a cat", LONG], E, client, Recipe(steps=0))
    assert [one.prompt for one in found] == ["a cat", LONG]
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.raises(InputError, match=r"recipe\[0\]: steps=201: .* at most 200"):
        personalize_remote("a cat", E, client, Recipe(steps=201))
    with pytest.raises(InputError, match=r"prompts\[1\]: expected text, got int"):
        personalize_remote(["a cat", 3], E, client)


@pytest.mark.triton
def test_the_command_personalises_on_a_server(server: Any, tmp_path: Path, capsys) -> None:
    mine, output = tmp_path / "mine.safetensors", tmp_path / "out.safetensors"
    AestheticEmbedding.of(E).write(mine)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ("a cat", "--embedding", str(mine), "--url", server.http_url, "--steps", "0")
    assert command.run(parser.parse_args([*given, "-o", str(output)])) == 0
    assert "MEANINGLESS" in capsys.readouterr().out
    with safe_open(output, "np") as file:
        assert file.metadata()["provenance.model"] == "aesthetic_personalize"
        assert file.get_tensor("prompt_embeds").shape == (1, 77, 768)
        assert file.get_tensor("agreement").shape == (1, 1)
