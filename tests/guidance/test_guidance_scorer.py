"""The differentiable scorer: the server's scores, true gradients, a tower that nothing moves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scored_images import gradient, images, relative
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from aesthetic_client import contract
from aesthetic_client.pixels import pixels_from_image
from aesthetic_export.files import FileStore
from aesthetic_export.gradient_parts import heads_with_gradient
from aesthetic_export.heads import fold, published_heads, seeded_heads
from aesthetic_export.modules import AestheticHeads, ClipImage
from aesthetic_export.samples import made_up_images, unit_vectors
from aesthetic_export.towers import Tower, seeded_tower
from aesthetic_guidance.scorer import AestheticScorer
from towers import tiny_tower

HEADS = seeded_heads(0)


@pytest.fixture(scope="module")
def tower() -> Tower:
    return tiny_tower()


@pytest.fixture(scope="module")
def heads(shared_data: Path, tmp_path_factory: pytest.TempPathFactory):
    store = FileStore(tmp_path_factory.mktemp("cache"), (shared_data / "heads",))
    return published_heads(store)


def test_published_norms_of_gradients(tower, heads, shared_data):
    """d score / d embedding, through the L2 norm: the scorer's, and the served model's slope."""
    golden = json.loads((shared_data / "golden_scores.json").read_text())
    norms = golden["d_score_d_embedding_norm"]
    assert norms.pop("head") == contract.DEFAULT_HEAD.name and len(norms) == 3
    scorer = AestheticScorer(tower, heads[0])
    default = torch.eye(len(heads))[:1]
    for name, expected in norms.items():
        path = shared_data / "aesthetic_embeddings" / name
        if path.suffix == ".npy":
            raw = torch.from_numpy(np.load(path).astype(np.float32)).reshape(1, -1)
        else:
            raw = torch.load(path, weights_only=True, map_location="cpu").float().reshape(1, -1)
        raw = raw.detach().requires_grad_()
        scorer.score_embeddings(functional.normalize(raw)).sum().backward()
        assert float(raw.grad.norm()) == pytest.approx(expected, rel=1e-5)
        unit = functional.normalize(raw.detach())
        _, slope = heads_with_gradient(AestheticHeads(heads), unit, default)
        across = slope - unit * (unit * slope).sum()
        assert float(across.norm() / raw.detach().norm()) == pytest.approx(expected, rel=1e-5)


def weights_of(scorer: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in scorer.buffers()]


def test_scores_and_embeddings_are_those_of_the_exported_modules(tower, heads):
    pixels = torch.from_numpy(made_up_images(4))
    floats = pixels.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        embedding = ClipImage(tower.module)(pixels)
        expected = AestheticHeads(heads)(embedding)
    for head, scores in zip(heads, expected, strict=True):
        scorer = AestheticScorer(tower, head)
        with torch.no_grad():
            np.testing.assert_allclose(scorer.score(floats), scores, atol=2e-5)
            np.testing.assert_allclose(scorer.embed(floats), embedding, atol=1e-6)
            np.testing.assert_allclose(scorer.score_embeddings(embedding), scores, atol=1e-6)
        assert scorer.head_name == head.source.name
    assert float(expected[0].std()) > 0.1  # other images give other scores


def test_photographs_score_as_the_reference_prepares_them(tower, heads, shared_data):
    """The distance that 8-bit rounding makes, against how far photographs are from each other.

    The tiny tower is made to be sensitive, so scores of a trained one differ less.
    """
    reference, module = ClipImage(tower.module), AestheticHeads(heads)
    plain = AestheticScorer(tower, heads[0])
    rounded = AestheticScorer(tower, heads[0], round_to_8bit=True)
    scores = []
    for name in ("cat_aesthetic.png", "cat_normal.png", "photo.jpeg", "bad/4071.png"):
        image = Image.open(shared_data / "images" / name).convert("RGB")
        if image.size == (224, 224):  # nothing to resize, as most of these photographs
            image = image.resize((300, 260))
        floats = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            prepared = torch.from_numpy(pixels_from_image(image).copy())[None]
            expected = module(reference(prepared))[0]
            scores.append([*map(float, (expected, plain.score(floats), rounded.score(floats)))])
    columns = np.transpose(scores)
    spread = columns[0].std()
    assert spread > 0.2
    assert np.abs(columns[1] - columns[0]).max() < 0.5 * spread
    assert np.abs(columns[2] - columns[0]).max() < 0.01 * spread


@pytest.mark.parametrize(
    ("head", "size"),
    [*((head, (60, 80)) for head in HEADS), (HEADS[0], (224, 224)), (HEADS[0], (250, 230))],
    ids=lambda value: getattr(value, "source", None) and value.source.kind,
)
def test_gradients_agree_with_finite_differences(tower, head, size):
    scorer = AestheticScorer(tower, head, dtype=torch.float64)
    pixels = images(1, *size, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    found = gradient(scorer, pixels)
    noise = torch.randn(pixels.shape, dtype=torch.float64, generator=generator)
    step = 1e-6
    for direction in (found / found.norm(), noise / noise.norm()):
        with torch.no_grad():
            ahead, behind = (scorer.score(pixels + sign * step * direction) for sign in (1, -1))
        expected = float(ahead - behind) / (2 * step)
        assert float((found * direction).sum()) == pytest.approx(expected, rel=1e-6)


def test_fp32_gradients_are_those_of_float64(tower):
    exact = gradient(AestheticScorer(tower, HEADS[0], dtype=torch.float64), images().double())
    assert relative(gradient(AestheticScorer(tower, HEADS[0]), images()).double(), exact) < 5e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_gives_the_same_scores_and_gradients(tower, dtype):
    plain = AestheticScorer(tower, HEADS[0], dtype=dtype)
    again = AestheticScorer(tower, HEADS[0], dtype=dtype, checkpointing=True)
    calls = []
    again.tower.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    assert torch.equal(again.score(images()), plain.score(images()))
    assert len(calls) == 1  # nothing to go back to: nothing kept
    assert torch.equal(gradient(again, images()), gradient(plain, images()))
    assert len(calls) == 3  # forward, and once more for the gradient


def test_bfloat16_is_near_fp32(tower):
    exact = AestheticScorer(tower, HEADS[0])
    half = AestheticScorer(tower, HEADS[0], dtype=torch.bfloat16)
    with torch.no_grad():
        near, scores = half.score(images(4)), exact.score(images(4))
    assert near.dtype == torch.float32 and not torch.equal(near, scores)
    # bfloat16 has 8 bits; the head's weight is 16 long
    np.testing.assert_allclose(near, scores, atol=0.1)
    cosine = functional.cosine_similarity(
        gradient(half, images()).flatten(), gradient(exact, images()).flatten(), dim=0
    )
    assert cosine > 0.98
    kinds = {name: tensor.dtype for name, tensor in half.named_buffers()}
    assert kinds["tower.blocks.0.qkv.weight"] == torch.bfloat16
    assert kinds["tower.blocks.0.ln_1.weight"] == kinds["head.weight"] == torch.float32


def test_use_changes_nothing_and_nothing_can_train_it(tower):
    scorer = AestheticScorer(tower, HEADS[2])
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid(), scorer)
    before, given = weights_of(scorer), {n: t.clone() for n, t in tower.module.state_dict().items()}
    model.requires_grad_(True).train()
    assert not any(part.training for part in scorer.modules())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (-model(images()).mean()).backward()
        optimizer.step()
    assert len(list(model.parameters())) == 2 and set(model.state_dict()) == {"0.weight", "0.bias"}
    assert all(torch.equal(a, b) for a, b in zip(scorer.buffers(), before, strict=True))
    assert all(tensor.grad is None for tensor in scorer.buffers())
    assert all(torch.equal(tower.module.state_dict()[name], given[name]) for name in given)
    assert all(tensor.grad is None for tensor in tower.module.parameters())


def test_casting_the_model_around_it_does_not_round_it(tower):
    scorer = AestheticScorer(tower, HEADS[0])
    before, scores = weights_of(scorer), scorer.score(images())
    model = nn.Sequential(nn.Linear(2, 2), scorer).to("cpu", torch.bfloat16).half()
    assert model[0].weight.dtype == torch.float16
    assert all(torch.equal(a, b) for a, b in zip(scorer.buffers(), before, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scorer.score(images()), scores)


def test_it_moves_between_devices(tower):
    scorer = AestheticScorer(tower, HEADS[0]).to("meta")
    assert scorer.device.type == "meta" and all(t.is_meta for t in scorer.buffers())


def test_images_of_another_float_type_get_gradients_of_it(tower):
    pixels = images().to(torch.bfloat16).requires_grad_()
    scores = AestheticScorer(tower, HEADS[0]).score(pixels)
    scores.sum().backward()
    assert scores.dtype == torch.float32 and pixels.grad.dtype == torch.bfloat16
    assert pixels.grad.any()


def test_grey_images_are_rgb_with_equal_channels(tower):
    scorer = AestheticScorer(tower, HEADS[0])
    grey = images()[:, :1].requires_grad_()
    scores = scorer.score(grey)
    assert torch.equal(scores, scorer.score(grey.expand(-1, 3, -1, -1)))
    scores.sum().backward()
    expected = gradient(scorer, grey.detach().expand(-1, 3, -1, -1)).sum(1, keepdim=True)
    torch.testing.assert_close(grey.grad, expected)


def test_a_vector_is_a_head(tower):
    vector = unit_vectors(1, seed=5) * 3
    floats = images()
    with torch.no_grad():
        embeddings = AestheticScorer(tower, HEADS[0]).embed(floats)
        for given in (vector, vector[0], torch.from_numpy(vector[0]), vector[0].tolist()):
            scorer = AestheticScorer(tower, given)
            np.testing.assert_allclose(scorer.score(floats), embeddings @ vector.T, atol=1e-6)
    assert scorer.head_name == "vector" and scorer.meaningless
    np.testing.assert_allclose(embeddings.norm(dim=1), 1, atol=1e-6)


def test_the_gradient_of_a_linear_head_by_its_embedding_is_its_folded_weight(tower, heads):
    scorer = AestheticScorer(tower, heads[0])
    embeddings = torch.from_numpy(unit_vectors(3)).requires_grad_()
    scorer.score_embeddings(embeddings).sum().backward()
    weight, _ = fold(heads[0])
    np.testing.assert_allclose(embeddings.grad, np.tile(weight, (3, 1)), atol=1e-5)
    assert float(embeddings.grad[0].norm()) == pytest.approx(17.9956, abs=1e-4)  # published head


@pytest.mark.slow
def test_the_full_tower_agrees_in_every_mode():
    tower = seeded_tower(0)
    pixels = torch.from_numpy(made_up_images(2))
    floats = pixels.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = AestheticHeads(HEADS)(ClipImage(tower.module)(pixels))[0]
        half = AestheticScorer(tower, HEADS[0], dtype=torch.bfloat16).score(floats)
    scorer = AestheticScorer(tower, HEADS[0])
    with torch.no_grad():
        np.testing.assert_allclose(scorer.score(floats), expected, atol=2e-5)
    np.testing.assert_allclose(half, expected, atol=0.05)
    again = AestheticScorer(tower, HEADS[0], checkpointing=True)
    assert relative(gradient(again, floats[:1]), gradient(scorer, floats[:1])) < 1e-6


def test_second_derivatives_as_frozen_says(tower):
    scorer = AestheticScorer(tower, HEADS[0], dtype=torch.float64)
    pixels = images(1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    way = torch.randn(pixels.shape, dtype=torch.float64, generator=generator)
    at = pixels.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        (first,) = torch.autograd.grad(scorer.score(at).sum(), at, create_graph=True)
        (found,) = torch.autograd.grad((first * way).sum(), at)
    step = 1e-5
    ahead, behind = (gradient(scorer, pixels + s * step * way) for s in (1, -1))
    assert relative(found, (ahead - behind) / (2 * step)) < 1e-4
