"""What the differentiable scorer refuses, and what it says then."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from aesthetic_client.errors import InputError
from aesthetic_export.heads import seeded_heads
from aesthetic_export.towers import ActivationError, Tower
from aesthetic_guidance.scorer import AestheticScorer
from generated_images import texture
from towers import tiny_tower

HEADS = seeded_heads(0)


@pytest.fixture(scope="module")
def tower() -> Tower:
    return tiny_tower()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.linspace(0.25, 255, 384).view(2, 3, 8, 8), r"got 0\.25 to 255: use images / 255"),
        (torch.rand(2, 3, 8, 8) * 2 - 1, r"\(images \+ 1\) / 2 for -1 to 1"),
        (torch.full((1, 3, 8, 8), torch.nan), "NaN or infinite"),
        (torch.full((1, 3, 8, 8), -torch.inf), "NaN or infinite"),
        (torch.rand(3, 8, 8), r"got \(3, 8, 8\); one image needs a batch axis"),
        (torch.rand(2, 4, 8, 8), r"\(B, 3, H, W\) or \(B, 1, H, W\), got \(2, 4, 8, 8\)"),
        (torch.rand(2, 8, 8, 3), r"got \(2, 8, 8, 3\)"),
        (torch.rand(0, 3, 8, 8), r"got \(0, 3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got torch.uint8: use images / 255"),
        (texture(8, 8, 3), "expected a torch.Tensor, got ndarray"),
    ],
)
def test_wrong_images_are_named(tower, wrong, message):
    with pytest.raises(InputError, match=message):
        AestheticScorer(tower, HEADS[0]).score(wrong)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (np.ones(767), r"expected 768 numbers, got shape \(767,\)"),
        (np.zeros(768), "zeros only"),
        ([float("nan")] * 768, "NaN"),
        ([1e300] * 768, "as fp32, the vector has NaN or infinite"),
        ([1e-300] * 768, "zeros only"),
        ({"a": 1}, "expected 768 numbers, got dict"),
        ("sa_0_4_vit_l_14_linear", r"by name needs AestheticScorer\.load"),
    ],
)
def test_wrong_heads_are_named(tower, head, message):
    with pytest.raises(InputError, match=message):
        AestheticScorer(tower, head)


def test_wrong_towers_types_and_embeddings_are_named(tower):
    plain = tiny_tower()
    plain.module.transformer.resblocks[1].mlp.gelu = nn.GELU()
    with pytest.raises(ActivationError, match="layer 1"):
        AestheticScorer(plain, HEADS[0])
    with pytest.raises(InputError, match=r"dtype torch\.float16 is not supported"):
        AestheticScorer(tower, HEADS[0], dtype=torch.float16)
    with pytest.raises(InputError, match=r"expected \(B, 768\), got \(2, 1536\)"):
        AestheticScorer(tower, HEADS[0]).score_embeddings(torch.zeros(2, 1536))
