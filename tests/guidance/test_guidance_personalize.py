"""Personalised prompts equal the paper's formula written out, and the text model never changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from aesthetic_client.errors import EmbeddingError, InputError
from aesthetic_client.tokenizer import PAD_END, TruncationWarning, tokenize
from aesthetic_export.towers import Tower
from aesthetic_guidance.personalize import (
    Personalized,
    Recipe,
    Stopped,
    personalize,
    personalize_each,
)
from aesthetic_guidance.text_models import embed_text
from text_towers import tiny_text_tower, transformers_text_model

PROMPT = "Hills of Tuscany, oil on canvas"
PROMPTS = [PROMPT, "", "a cat"]
E = torch.randn(768, generator=torch.Generator().manual_seed(7))
ASCENT = {"optimizer": "ascent", "lr": 0.05}  # steps that move a random tower visibly


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The tower is too small for two, which only wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tower() -> Tower:
    return tiny_text_tower(1)


def by_hand(tower: Tower, prompt: str, steps: int, lr: float, adam: bool) -> tuple:
    """The paper's update, or its code's Adam (Kingma and Ba 2015, algorithm 1), on plain tensors.

    Returns the last hidden states, the embedding and the agreements.
    """
    names = [n for n, _ in tower.module.named_parameters() if n != "text_projection"]
    theta = {n: p.detach().clone() for n, p in tower.module.named_parameters()}
    first = {n: torch.zeros_like(theta[n]) for n in names}
    second = {n: torch.zeros_like(theta[n]) for n in names}
    tokens = torch.from_numpy(tokenize(prompt, pad=PAD_END))
    agreements = []
    for step in range(1, steps + 2):
        for n in names:
            theta[n].requires_grad_(True)
        embedding, hidden = torch.func.functional_call(tower.module, theta, tokens)
        text = embedding[0] / embedding[0].norm()
        cosine = text @ (E / E.norm())
        agreements.append(float(cosine.detach()))
        if step > steps:
            return hidden[0].detach(), text.detach(), agreements
        gradients = torch.autograd.grad(cosine, [theta[n] for n in names])
        for n, g in zip(names, gradients, strict=True):
            first[n] = 0.9 * first[n] + 0.1 * g
            second[n] = 0.999 * second[n] + 0.001 * g * g
            slope = g
            if adam:
                scale = (second[n] / (1 - 0.999**step)).sqrt() + 1e-8
                slope = first[n] / (1 - 0.9**step) / scale
            theta[n] = theta[n].detach() + lr * slope
    raise AssertionError


def assert_equal(found: Personalized, expected: tuple, tolerance: float) -> None:
    hidden, embedding, agreement = expected
    assert found.last_hidden_state.shape == (77, 32)
    assert (found.last_hidden_state - hidden).abs().max() < tolerance
    assert (found.embedding - embedding).abs().max() < tolerance
    assert found.agreement == pytest.approx(agreement, abs=tolerance)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_one_step_of_ascent_is_the_papers_formula(tower, prompt):
    found = personalize(prompt, E, tower, steps=1, **ASCENT)
    assert_equal(found, by_hand(tower, prompt, 1, 0.05, adam=False), 1e-5)
    assert found.agreement[1] - found.agreement[0] > 1e-3
    assert (found.last_hidden_state - found.original_hidden_state).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [1, 4])
def test_the_default_is_adam_as_in_the_papers_code(tower, steps):
    found = personalize(PROMPT, E, tower, steps=steps, lr=1e-3)
    assert_equal(found, by_hand(tower, PROMPT, steps, 1e-3, adam=True), 1e-4)
    assert len(found.agreement) == steps + 1
    assert all(b > a for a, b in zip(found.agreement, found.agreement[1:], strict=False))


def test_the_defaults_are_ten_steps_of_a_ten_thousandth(tower):
    found = personalize(PROMPT, E, tower)
    same = personalize(PROMPT, E, tower, steps=10, lr=1e-4, optimizer="adam", weight=1.0)
    assert torch.equal(found.last_hidden_state, same.last_hidden_state)
    assert len(found.agreement) == 11


def test_no_step_is_the_towers_own_output(tower):
    found = personalize(PROMPT, E, tower, steps=0)
    embedding, hidden = tower.module(torch.from_numpy(tokenize(PROMPT, pad=PAD_END)))
    assert torch.equal(found.last_hidden_state, found.original_hidden_state)
    assert (found.last_hidden_state - hidden[0]).abs().max() < 1e-5
    cosine = torch.nn.functional.cosine_similarity(embedding[0], E, dim=0)
    assert found.agreement == pytest.approx([float(cosine)], abs=1e-6)


def test_the_tower_stays_bit_identical_and_nothing_leaks(tower):
    before = {name: tensor.clone() for name, tensor in tower.module.state_dict().items()}
    first = personalize("a cat", E, tower, steps=2, lr=1e-2)
    personalize(PROMPT, -E, tower, steps=3, lr=1.0, optimizer="ascent")
    again = personalize("a cat", E, tower, steps=2, lr=1e-2)
    assert torch.equal(first.last_hidden_state, again.last_hidden_state)
    assert first.agreement == again.agreement
    after = tower.module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(p.requires_grad or p.grad is not None for p in tower.module.parameters())


def test_prompts_in_one_call_equal_prompts_alone(tower):
    recipe = Recipe(steps=2, lr=1e-3, weight=0.7)
    together = personalize_each(PROMPTS, E, tower, recipe)
    assert [one.prompt for one in together] == PROMPTS
    for prompt, found in zip(PROMPTS, together, strict=True):
        alone = personalize(prompt, E, tower, steps=2, lr=1e-3, weight=0.7)
        assert torch.equal(found.last_hidden_state, alone.last_hidden_state)
        assert torch.equal(found.embedding, alone.embedding)
        assert found.agreement == alone.agreement
    assert personalize_each([], E, tower) == []
    (one,) = personalize_each(PROMPT, E, tower, recipe)  # not a prompt a letter
    assert torch.equal(one.last_hidden_state, together[0].last_hidden_state)


def test_negative_moves_away_as_the_opposite_embedding_does(tower):
    away = personalize(PROMPT, E, tower, steps=2, negative=True, **ASCENT)
    opposite = personalize(PROMPT, -E, tower, steps=2, **ASCENT)
    assert torch.equal(away.last_hidden_state, opposite.last_hidden_state)
    assert away.agreement == pytest.approx([-value for value in opposite.agreement], abs=1e-7)
    assert away.agreement[0] > away.agreement[1] > away.agreement[2]


def test_the_weight_blends_hidden_states_alone(tower):
    whole = personalize(PROMPT, E, tower, steps=1, **ASCENT)
    none, half = (personalize(PROMPT, E, tower, steps=1, weight=w, **ASCENT) for w in (0, 0.5))
    assert torch.equal(none.last_hidden_state, whole.original_hidden_state)
    middle = (whole.original_hidden_state + whole.last_hidden_state) / 2
    assert torch.allclose(half.last_hidden_state, middle, atol=1e-6)
    assert torch.equal(half.embedding, whole.embedding)
    arc = personalize(PROMPT, E, tower, steps=1, weight=0.5, slerp=True, **ASCENT)
    lengths = arc.last_hidden_state.norm(dim=-1)
    assert (lengths - half.last_hidden_state.norm(dim=-1)).max() > 1e-4  # the chord is shorter


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_learns_inside_a_pipeline_that_turned_gradients_off(tower, mode):
    expected = personalize(PROMPT, E, tower, steps=1, **ASCENT)
    with mode():
        found = personalize(PROMPT, E, tower, steps=1, **ASCENT)
        assert not torch.is_grad_enabled()
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert not found.last_hidden_state.requires_grad


def test_any_dtype_shape_and_length_of_the_embedding_is_the_same_direction(tower):
    expected = personalize(PROMPT, E, tower, steps=1, **ASCENT).last_hidden_state
    for given, tolerance in (
        (E[None] * 18.6, 1e-5),
        ((E / 100).double().numpy(), 1e-5),
        (E.numpy()[None].astype(np.float16), 3e-3),  # as half of the published ones
    ):
        found = personalize(PROMPT, given, tower, steps=1, **ASCENT).last_hidden_state
        assert (found - expected).abs().max() < tolerance
    for wrong in (E[:700], torch.zeros(768), E / 0):
        with pytest.raises(EmbeddingError, match="aesthetic embedding"):
            personalize(PROMPT, wrong, tower)


def test_the_published_embeddings_are_taken_as_they_are(tower, shared_data):
    """In fp16 and fp32, as (768,) and (1, 768), of any length."""
    paths = sorted((shared_data / "aesthetic_embeddings").glob("*.pt"))
    assert len(paths) > 3
    (text,) = embed_text([PROMPT], tower)
    for path in paths:
        published = torch.load(path, map_location="cpu", weights_only=True)
        found = personalize(PROMPT, published, tower, steps=1, **ASCENT)
        e = published.detach().double().flatten()
        assert found.agreement[0] == pytest.approx(float(text.double() @ e / e.norm()), abs=1e-6)
        assert found.agreement[1] > found.agreement[0]


def test_transformers_models_give_the_same(tower):
    expected = personalize(PROMPT, E, tower, steps=3, **ASCENT)
    whole = transformers_text_model(tower)
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    text = whole.text_model  # a CLIPTextModel or its inside, as the text encoder of a pipeline is
    results = [
        personalize(PROMPT, E, whole, steps=3, **ASCENT),
        personalize(PROMPT, E, text, steps=3, projection=whole.text_projection, **ASCENT),
        personalize(PROMPT, E, text, steps=3, projection=whole, **ASCENT),
        personalize(PROMPT, E, text, steps=3, projection=tower, **ASCENT),
    ]
    for found in results:
        assert (found.last_hidden_state - expected.last_hidden_state).abs().max() < 1e-4
        assert (found.embedding - expected.embedding).abs().max() < 1e-5
        assert found.agreement == pytest.approx(expected.agreement, abs=1e-5)
    assert all(torch.equal(t, whole.state_dict()[n]) for n, t in before.items())
    halves = personalize(PROMPT, E, whole.half(), steps=1, **ASCENT)  # as pipelines on a GPU are
    assert halves.last_hidden_state.dtype == torch.float32
    assert halves.agreement[:2] == pytest.approx(expected.agreement[:2], abs=1e-3)


def test_what_has_no_projection_or_is_no_text_model_is_refused(tower):
    whole = transformers_text_model(tower)
    with pytest.raises(InputError, match="has no text projection: give one"):
        personalize(PROMPT, E, whole.text_model)
    with pytest.raises(InputError, match="from 32 to 9 dimensions, expected from 32"):
        personalize(PROMPT, E, whole.text_model, projection=torch.nn.Linear(32, 9, bias=False))
    with pytest.raises(InputError, match="a Linear is no CLIP text model"):
        personalize(PROMPT, E, torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -1},
        {"steps": 1.5},
        {"steps": True},
        {"lr": 0},
        {"lr": math.nan},
        {"lr": 1e38},
        {"lr": "1e-4"},
        {"lr": None},
        {"lr": 10**400},
        {"lr": True},
        {"steps": "2"},
        {"slerp": 1},
        {"negative": "no"},
        {"optimizer": "sgd"},
        {"weight": 1.1},
        {"weight": math.nan},
    ],
)
def test_a_senseless_recipe_is_refused_by_name(tower, wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=name):
        personalize(PROMPT, E, tower, **wrong)


def test_steps_that_diverge_are_an_error_not_nan(tower):
    with pytest.raises(InputError, match=r"lr=1e\+29 is too large"):
        personalize(PROMPT, E, tower, steps=2, lr=1e29)


def test_it_can_be_stopped_before_each_prompt_and_each_step(tower):
    asked = []

    def wanted_until(last: int) -> Callable[[], bool]:
        asked.clear()
        return lambda: asked.append(last) or len(asked) > last

    recipe = Recipe(steps=2, lr=1e-3)
    expected = personalize_each(PROMPTS, E, tower, recipe)
    found = personalize_each(PROMPTS, E, tower, recipe, stop=wanted_until(9))
    assert len(asked) == 9  # three prompts of two steps
    assert [one.agreement for one in found] == [one.agreement for one in expected]
    for last in (0, 1, 4, 8):
        with pytest.raises(Stopped):
            personalize_each(PROMPTS, E, tower, recipe, stop=wanted_until(last))
        assert len(asked) == last + 1


def test_a_prompt_that_is_cut_warns(tower):
    with pytest.warns(TruncationWarning, match="has 80 tokens"):
        personalize("cat " * 80, E, tower, steps=0)


def test_prompts_in_parallel_threads_equal_prompts_alone(tower):
    def one(prompt: str) -> Personalized:
        return personalize(prompt, E, tower, steps=2, lr=1e-2)

    alone = [one(prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        together = list(pool.map(one, PROMPTS))
    for found, expected in zip(together, alone, strict=True):
        assert (found.last_hidden_state - expected.last_hidden_state).abs().max() < 1e-5
        assert found.agreement == pytest.approx(expected.agreement, abs=1e-6)
