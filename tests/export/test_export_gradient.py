"""The backward pass written by hand is autograd's, in torch and in ONNX Runtime."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from aesthetic_client import contract
from aesthetic_client.contract import AESTHETIC_GRADIENT, HEADS
from aesthetic_export import parity
from aesthetic_export.files import sha256_of
from aesthetic_export.gradient import AestheticGradient
from aesthetic_export.gradient_export import autograd_reference, export_gradient, parity_inputs
from aesthetic_export.gradient_parity import gradient_parity, onnx_gradient
from aesthetic_export.heads import seeded_heads
from aesthetic_export.modules import AestheticHeads, ClipImage
from aesthetic_export.towers import ActivationError, Shape, seeded_tower
from towers import TINY, tiny_tower

SEEDED = seeded_heads(0)
# One block is the last one alone; 49 and 65 tokens, an odd number of heads.
SHAPES = [TINY, Shape(patch=32, width=48, layers=1, heads=3), Shape(28, 32, 3, 4, mlp_ratio=2.0)]


def double(shape: Shape = TINY) -> tuple[AestheticGradient, nn.Module, AestheticHeads]:
    """The network, and the plain tower and heads, all in float64."""
    tower = tiny_tower() if shape is TINY else seeded_tower(1, shape)
    module = copy.deepcopy(tower.module).double()
    return AestheticGradient(module, SEEDED).double(), module, AestheticHeads(SEEDED).double()


def inputs(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 224, 224), (len(HEADS),), (contract.EMBEDDING_DIM,))
    pixels, weights, direction = (
        torch.rand(count, *shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return pixels, weights - 0.5, direction - 0.5


def by_autograd(tower, heads, pixels, weights, direction):
    pixels = pixels.clone().requires_grad_()
    plain = ClipImage(nn.Identity())
    image = (pixels - plain.mean.double()) / plain.std.double()
    embedding = functional.normalize(tower(image), dim=-1)
    score = (torch.cat(heads(embedding), 1) * weights).sum(1, keepdim=True)
    score = score + (embedding * direction).sum(1, keepdim=True)
    return score, *torch.autograd.grad(score.sum(), pixels), embedding


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_autograd_s_for_every_head_and_any_direction(shape):
    network, tower, heads = double(shape)
    pixels, weights, direction = inputs(7)
    weights[: len(HEADS)] = torch.eye(len(HEADS))  # each head alone, a direction alone, and all
    direction[: len(HEADS)] = 0
    weights[len(HEADS)] = 0
    found = network(pixels, weights, direction)
    expected = by_autograd(tower, heads, pixels, weights, direction)
    for one, other in zip(found, expected, strict=True):
        assert not one.requires_grad
        for row, wanted in zip(one, other, strict=True):
            # 1e-8: constants that are rounded to fp32 before either computes
            assert (row - wanted).norm() <= 1e-8 * wanted.norm()
    assert [tuple(tensor.shape[1:]) for tensor in found] == [
        tensor.dims for tensor in AESTHETIC_GRADIENT.outputs
    ]


def test_finite_differences_agree():
    network, _, _ = double()
    pixels, weights, direction = inputs(1)
    _, gradient, _ = network(pixels, weights, direction)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
    step = 1e-6
    for way in (gradient / gradient.norm(), noise / noise.norm()):
        ahead, behind = (
            float(network(pixels + sign * step * way, weights, direction)[0]) for sign in (1, -1)
        )
        expected = (ahead - behind) / (2 * step)
        assert float((gradient * way).sum()) == pytest.approx(expected, rel=1e-6)


def test_rows_do_not_touch_each_other():
    network, _, _ = double()
    three = inputs(3)
    together = network(*three)
    for row in range(3):
        alone = network(*(tensor[row : row + 1] for tensor in three))
        for one, all_rows in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_rows[row], rtol=1e-9, atol=1e-12)


def test_it_shares_the_towers_weights_and_can_train_nothing():
    tower = tiny_tower()
    network = AestheticGradient(tower.module, SEEDED)
    block = tower.module.transformer.resblocks[0]
    assert network.blocks[0].attention.qkv.weight.data_ptr() == block.attn.in_proj_weight.data_ptr()
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_tower_with_another_activation_is_refused(tmp_path):
    tower = tiny_tower()
    tower.module.transformer.resblocks[1].mlp.gelu = nn.GELU()
    with pytest.raises(ActivationError, match="layer 1 of the tower computes GELU"):
        export_gradient(tmp_path, tower, SEEDED)
    assert not any(tmp_path.iterdir())


def test_the_exported_file_keeps_its_tolerances(gradient_export):
    folder, report, known = gradient_export
    assert report and report.name == "aesthetic_gradient"
    assert report.score_difference < 1e-5 and report.gradient_difference < 1e-4
    assert report.embedding_difference < 1e-6
    assert report.batch_sizes == (1, 3)
    assert known["model"] == "aesthetic_gradient" and known["weights"] == contract.SEEDED_WEIGHTS
    assert known["source"] == "seeded:0" and known["precision"] == "fp32"
    assert [row["name"] for row in known["heads"]] == [head.name for head in HEADS]
    assert known["parity"]["passed"] is True
    hashes = {name: sha256_of(folder / name) for name in ("model.onnx", "model.onnx.data")}
    assert known["artifact_sha256"] == hashes


def test_every_weight_is_stored_once(gradient_export):
    folder, _, _ = gradient_export
    tower = sum(parameter.numel() for parameter in tiny_tower().module.parameters())
    heads = sum(array.size for head in SEEDED for layer in head.layers for array in layer)
    stored = sum(path.stat().st_size for path in folder.glob("model.onnx*"))
    assert stored < 4 * (tower + heads) + 0.5e6  # and the graph


def test_onnx_runtime_answers_every_head_by_name(gradient_export):
    """Against autograd in float64, not against what the exporter compared with."""
    folder, _, _ = gradient_export
    _, tower, heads = double()
    pixels, weights, direction = inputs(5, seed=3)
    weights, direction = torch.eye(5, dtype=torch.float64), torch.zeros_like(direction)
    session = parity.onnx_session(folder / "model.onnx")
    names = [tensor.name for tensor in AESTHETIC_GRADIENT.inputs]
    given = dict(zip(names, (pixels, weights, direction), strict=True))
    found = session.run(None, {name: value.float().numpy() for name, value in given.items()})
    score, gradient, embedding = by_autograd(
        tower, heads, pixels.float().double(), weights, direction
    )
    np.testing.assert_allclose(found[0], score.detach(), rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(found[2], embedding.detach(), atol=1e-6)
    for row, wanted in zip(found[1], gradient.numpy(), strict=True):
        assert np.linalg.norm(row - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_other_numbers_do_not_pass(gradient_export):
    folder, good, _ = gradient_export
    given = parity_inputs(SEEDED)
    reference = autograd_reference(tiny_tower(), SEEDED, given)
    batches = [[0, 1, 2]]
    compute = onnx_gradient(folder / "model.onnx")
    assert gradient_parity(compute, reference, given, batches)
    score, gradient, embedding, slope = reference
    # another image's gradient, one a little off, one of the wrong sign; a score off by 1e-4 of it
    for wrong in (
        [score, gradient[[1, 0, 2]], embedding, slope],
        [score, gradient * np.float32(1.0002), embedding, slope],
        [score, -gradient, embedding, slope],
        [score + 1e-4 * np.linalg.norm(slope, axis=1, keepdims=True), *reference[1:]],
        [score, gradient * np.float32(np.nan), embedding, slope],
    ):
        report = gradient_parity(compute, wrong, given, batches)
        assert not report and report.as_dict()["passed"] is False
        with pytest.raises(parity.ParityError, match="differs from torch's autograd: gradients"):
            raise parity.ParityError(report)
    assert not replace(good, slope=0.0)
