"""Only a QuickGELU tower gets through, and the graph computes what the module does."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from aesthetic_client import contract
from aesthetic_client.pixels import CLIP_MEAN, CLIP_STD
from aesthetic_export.modules import ClipImage
from aesthetic_export.onnx_export import (
    ExportError,
    check_interface,
    check_quick_gelu_graph,
    onnx_from_module,
)
from aesthetic_export.openclip import open_clip_transformer
from aesthetic_export.samples import made_up_images
from aesthetic_export.towers import ActivationError, check_quick_gelu, seeded_tower
from towers import TINY, tiny_tower


class TanhGelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x, approximate="tanh")


class AlmostQuickGelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.7 * x)


class RenamedQuickGelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x * 1.702) * x


WRONG = [nn.GELU, TanhGelu, AlmostQuickGelu, nn.SiLU, nn.ReLU]


def with_activation(activation: type[nn.Module], layer: int = 1) -> nn.Module:
    module = tiny_tower().module
    module.transformer.resblocks[layer].mlp.gelu = activation()
    return module


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("activation", WRONG)
def test_the_module_check_catches_one_wrong_activation(activation, layer):
    with pytest.raises(ActivationError, match=f"layer {layer} .*{activation.__name__}"):
        check_quick_gelu(with_activation(activation, layer))


def test_the_module_check_counts_layers_and_looks_at_what_is_computed():
    assert check_quick_gelu(tiny_tower().module) == 2
    assert check_quick_gelu(with_activation(RenamedQuickGelu)) == 2
    with pytest.raises(ActivationError, match="unknown"):
        check_quick_gelu(nn.Linear(1, 1))


def test_what_open_clip_builds_with_its_default_activation_is_caught():
    plain = open_clip_transformer().VisionTransformer(224, 14, 64, 2, 2, 4.0, output_dim=768)
    with pytest.raises(ActivationError, match="GELU"):
        check_quick_gelu(plain)


@pytest.mark.parametrize("activation", WRONG)
def test_the_graph_check_catches_one_wrong_activation(activation, tmp_path):
    module = ClipImage(with_activation(activation))
    path, *_ = onnx_from_module(module, contract.CLIP_IMAGE, tmp_path)
    with pytest.raises(ActivationError):
        check_quick_gelu_graph(path, 2)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    module = ClipImage(tiny_tower().module)
    folder = tmp_path_factory.mktemp("exported")
    metadata = {"provenance.weights": contract.SEEDED_WEIGHTS}
    files = onnx_from_module(
        module, contract.CLIP_IMAGE, folder, metadata=metadata, external_data=True
    )
    return module, files


def test_the_graph_check_passes_quick_gelu_and_counts_it(exported):
    _, (path, _) = exported
    check_quick_gelu_graph(path, 2)
    for wrong in (1, 3):
        with pytest.raises(ActivationError, match=f"2 times, but has {wrong} layers"):
            check_quick_gelu_graph(path, wrong)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_every_batch_size_equals_the_torch_module(exported, batch):
    module, (path, _) = exported
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pixels = made_up_images(batch)
    (found,) = session.run(["embedding"], {"pixels": pixels})
    expected = module(torch.from_numpy(pixels)).numpy()
    assert found.dtype == np.float32
    assert found.shape == (batch, 768)
    assert np.abs(found - expected).max() < 1e-5
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)


def test_the_graph_holds_the_whole_preparation(exported):
    """Against the reference's own steps: to [0, 1], mean and std, CHW, tower, length 1."""
    module, (path, _) = exported
    pixels = made_up_images(2)
    scaled = (pixels.astype(np.float64) / 255 - CLIP_MEAN) / CLIP_STD
    chw = torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))
    features = module.tower(chw).numpy()
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, {"pixels": pixels})[0] - expected).max() < 1e-5


def test_the_graph_carries_names_opset_and_metadata(exported):
    _, (path, data) = exported
    model = onnx.load(path, load_external_data=False)
    assert data.stat().st_size > 500_000 > path.stat().st_size  # the weights are outside
    assert {item.key: item.value for item in model.metadata_props}["provenance.weights"] == (
        contract.SEEDED_WEIGHTS
    )
    assert [entry.version for entry in model.opset_import if not entry.domain] == [18]
    check_interface(path, contract.CLIP_IMAGE)
    with pytest.raises(ExportError, match="aesthetic_heads"):
        check_interface(path, contract.AESTHETIC_HEADS)


class ThreeMeans(nn.Module):
    """A tower with an embedding of width 3."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().mean(dim=(1, 2))


def test_an_output_that_the_contract_does_not_know_is_refused(tmp_path):
    with pytest.raises(ExportError, match="768"):
        onnx_from_module(ThreeMeans().eval(), contract.CLIP_IMAGE, tmp_path)


def test_exporting_leaves_torch_as_it_was(tmp_path):
    for before in (True, False):
        torch.backends.mha.set_fastpath_enabled(before)
        try:
            onnx_from_module(FiveSlices().eval(), contract.AESTHETIC_HEADS, tmp_path)
            assert torch.backends.mha.get_fastpath_enabled() == before
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


class FiveSlices(nn.Module):
    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(embedding[:, i : i + 1] * 2 for i in range(len(contract.HEADS)))


def test_a_seed_names_one_tower_and_leaves_the_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (seeded_tower(seed, TINY).module for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.conv1.weight, same.conv1.weight)
    assert not torch.equal(one.conv1.weight, other.conv1.weight)
