"""Text models of two libraries as one; mixtures by line and by arc, targets turned to a text."""

from __future__ import annotations

import math

import pytest
import torch

from aesthetic_client.errors import InputError
from aesthetic_client.tokenizer import tokenize
from aesthetic_export.openclip import open_clip_transformer
from aesthetic_export.towers import ActivationError
from aesthetic_guidance.blending import lerp, slerp, steered
from aesthetic_guidance.text_models import embed_text, text_model
from text_towers import tiny_text_tower, transformers_text_model

A, B = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))


def test_slerp_turns_by_a_share_of_the_angle():
    start, end = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    for weight in (0.0, 0.25, 0.5, 1.0):
        angle = weight * math.pi / 2
        expected = torch.tensor([2 * math.cos(angle), 2 * math.sin(angle)])
        assert torch.allclose(slerp(start, end, weight), expected, atol=1e-6)
    assert torch.allclose(lerp(start, end, 0.5), torch.tensor([1.0, 1.0]))


def test_slerp_turns_each_vector_by_itself():
    starts, ends = torch.stack([A, B, A]), torch.stack([B, A, A + B])
    found = slerp(starts, ends, 0.3)
    for row in range(3):
        assert torch.equal(found[row], slerp(starts[row], ends[row], 0.3))


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_slerp_of_parallel_opposite_and_zero_vectors_is_a_line_not_nan(weight):
    for start, end in ((A, A), (A, 3 * A), (A, -A), (A, torch.zeros(768))):
        expected = lerp(start, end, weight)
        if not end.any():  # no direction: a quarter turn to nothing
            expected = math.sin((1 - weight) * math.pi / 2) * start
        assert torch.allclose(slerp(start, end, weight), expected, atol=1e-5)


def test_a_target_is_turned_by_a_share_of_its_angle_to_the_text():
    e, text = A / A.norm(), B / B.norm()
    whole = math.acos(float(e @ text))
    for angle in (0.0, 0.1, 1.0):
        found = steered(3 * A, 9 * B, angle)  # lengths play no part
        assert float(found.norm()) == pytest.approx(1, abs=1e-6)
        assert float(found @ e) == pytest.approx(math.cos(angle * whole), abs=1e-5)
    assert torch.allclose(steered(A, B, 1.0, negative=True), (e - text) / (e - text).norm())
    assert float(steered(A, B, 0.2, negative=True) @ text) < float(e @ text)
    with pytest.raises(InputError, match=r"angle=1\.5"):
        steered(A, B, 1.5)


def test_text_embeddings_are_of_length_1_whatever_the_library():
    tower = tiny_text_tower(2)
    prompts = ["", "a cat", "a dog"]
    found = embed_text(prompts, tower)
    raw, _ = tower.module(torch.from_numpy(tokenize(prompts)))
    assert torch.allclose(found, raw / raw.norm(dim=-1, keepdim=True), atol=1e-6)
    assert torch.allclose(found, embed_text(prompts, transformers_text_model(tower)), atol=1e-5)


def test_what_follows_the_end_of_text_has_no_effect_on_the_embedding():
    for text in (tiny_text_tower(2), transformers_text_model(tiny_text_tower(2))):
        model = text_model(text)
        tokens = model.tokens(["a cat"])
        with torch.no_grad():
            whole, short = model(tokens), model(tokens[:, :4])  # start, a, cat, end
        assert torch.allclose(whole[0], short[0], atol=1e-5)
        assert torch.allclose(whole[1][:, :4], short[1], atol=1e-5)


@pytest.mark.parametrize(
    ("otherwise", "says"),
    [
        ({"output_dim": 512}, "no projection to 768"),
        ({"proj_bias": True}, "no projection to 768"),
        ({"no_causal_mask": True}, "not CLIP's: causal"),
        ({"pool_type": "last"}, "not CLIP's.*end of text"),
    ],
)
def test_a_text_tower_that_is_not_clips_is_refused(otherwise, says):
    transformer = open_clip_transformer()
    settings = {"output_dim": 768, "act_layer": transformer.QuickGELU, **otherwise}
    module = transformer.TextTransformer(width=32, heads=2, layers=1, **settings)
    with pytest.raises(InputError, match=says):
        text_model(module)


def test_a_text_tower_with_plain_gelu_is_refused():
    plain = open_clip_transformer().TextTransformer(width=32, heads=2, layers=1, output_dim=768)
    with pytest.raises(ActivationError, match="GELU"):
        text_model(plain)
