"""The fp16 tower: which number has which type, how near it comes to fp32, and to fp16's end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from aesthetic_client import contract
from aesthetic_export import parity
from aesthetic_export.files import FileStore
from aesthetic_export.half import HalfBlock, HalfTower
from aesthetic_export.heads import fold, published_heads, seeded_heads
from aesthetic_export.measures import spread_of
from aesthetic_export.modules import AestheticHeads, ClipImage
from aesthetic_export.onnx_export import (
    ExportError,
    check_half_graph,
    check_interface,
    check_quick_gelu_graph,
    onnx_from_module,
)
from aesthetic_export.ranges import LIMIT, ranges_of, run_watched
from aesthetic_export.samples import made_up_images
from aesthetic_export.stress import Targets, stress_tower
from aesthetic_export.tolerances import FP16_COSINE, tower_tolerance
from aesthetic_export.towers import QUICK_GELU_FACTOR, VIT_L_14, ActivationError, Shape
from towers import tiny_tower

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
SMALL = Shape(width=256, layers=6, heads=4)


def embeddings(module: nn.Module, pixels: np.ndarray) -> np.ndarray:
    return parity.run_torch(module, pixels)[0]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a.astype(np.float64) * b, axis=1)


def onnx_types(path: Path) -> tuple[onnx.GraphProto, dict[str, int]]:
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    types = {item.name: item.data_type for item in graph.initializer}
    values = (*graph.input, *graph.output, *graph.value_info)
    return graph, types | {value.name: value.type.tensor_type.elem_type for value in values}


def test_every_node_has_the_type_that_is_written_out(half_onnx):
    graph, types = onnx_types(half_onnx)
    check_interface(half_onnx, contract.CLIP_IMAGE)  # UINT8 in, FP32 out, any batch
    found: dict[str, set[int]] = {}
    for node in graph.node:
        found.setdefault(node.op_type, set()).add(types[node.output[0]])
    assert found["MatMul"] == found["Conv"] == found["Softmax"] == found["Sigmoid"] == {FLOAT16}
    assert found["LayerNormalization"] == found["ReduceL2"] == {FLOAT}
    assert onnx.TensorProto.DOUBLE not in set.union(*found.values())
    big = [item for item in graph.initializer if np.prod(item.dims) > 10_000]
    positions = [item.name for item in big if item.data_type != FLOAT16]
    assert positions == ["tower.positions"]  # the stream's, which is fp32
    (cast,) = {node.op_type for node in graph.node if "pixels" in node.input} - {"Shape"}
    assert cast == "Cast"  # TensorRT does nothing else with UINT8


def test_the_check_names_a_node_of_another_type(half_onnx, tmp_path):
    check_half_graph(half_onnx)
    fp32 = onnx_from_module(ClipImage(tiny_tower().module), contract.CLIP_IMAGE, tmp_path)[0]
    with pytest.raises(ExportError, match=r"Conv .* is of FLOAT, not FLOAT16"):
        check_half_graph(fp32)
    model = onnx.load(half_onnx, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            node.op_type = "Softmax"  # would be in fp32
            break
    del node.input[1:]
    onnx.save(model, tmp_path / "other.onnx")
    check_half_graph(tmp_path / "other.onnx")
    node.op_type = "ReduceL2"
    node.input[0] = next(n.output[0] for n in model.graph.node if n.op_type == "MatMul")
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match=r"ReduceL2 .*FLOAT16, not FLOAT$|unknown"):
        check_half_graph(tmp_path / "other.onnx")


def test_quick_gelu_is_found_in_fp16_and_another_factor_is_not(half_onnx, tmp_path):
    check_quick_gelu_graph(half_onnx, 2)
    model = onnx.load(half_onnx, load_external_data=False)
    half = np.float16(QUICK_GELU_FACTOR)
    changed = 0
    for item in model.graph.initializer:
        if item.data_type == FLOAT16 and not item.dims:
            value = onnx.numpy_helper.to_array(item)
            if value == half:
                wrong = np.nextafter(half, np.float16(2), dtype=np.float16)
                item.CopyFrom(onnx.numpy_helper.from_array(wrong, item.name))
                changed += 1
    assert changed
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ActivationError):
        check_quick_gelu_graph(tmp_path / "other.onnx", 2)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnx_runtime_equals_fp32_torch_at_every_batch(half_onnx, batch):
    pixels = made_up_images(batch)
    session = onnxruntime.InferenceSession(str(half_onnx), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pixels": pixels})
    assert (found.dtype, found.shape) == (np.float32, (batch, 768))
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    expected = embeddings(ClipImage(tiny_tower().module), pixels)
    assert cosines(found, expected).min() > FP16_COSINE
    assert np.abs(found - expected).max() > 1e-6  # it is fp16


def test_casting_leaves_the_tower_as_it_was():
    tower = tiny_tower()
    before = {name: value.clone() for name, value in tower.module.state_dict().items()}
    HalfTower(tower.module)
    after = tower.module.state_dict()
    assert before.keys() == after.keys()
    assert all(after[name].dtype == torch.float32 for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_ranges_are_those_of_every_fp16_operation():
    class Products(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            half = x.half()
            return (half @ half.t()).float() * 1e9  # fp32 is not looked at

    x = torch.tensor([[30.0, -40.0], [0.0, 1.0]])
    output, found = run_watched(Products(), x)
    assert torch.equal(output, (x @ x.t()) * 1e9)
    assert (found.value, found.sum) == (2500.0, 2500.0)
    assert found.value_of.startswith("mm")
    assert found
    cancelling = torch.tensor([[200.0, -200.0], [200.0, 200.0]])
    found = ranges_of(Products(), cancelling)
    assert found.value == float("inf")  # 80000 on the diagonal
    assert not found
    cancelling = torch.tensor([[180.0, -180.0], [180.0, 180.0]])
    found = ranges_of(Products(), cancelling)
    assert (found.value, found.sum) == (64800.0, 64800.0)
    assert not ranges_of(Products(), torch.full((2, 2), float("nan")))


def test_a_heads_tolerance_grows_with_how_much_it_magnifies(shared_data, tmp_path):
    heads = published_heads(FileStore(tmp_path, (shared_data / "heads",)))
    scorer = parity.torch_scorer(AestheticHeads(heads))
    reference = embeddings(ClipImage(tiny_tower().module), made_up_images(3))
    tolerance = tower_tolerance("fp16", scorer, reference)
    assert tolerance.of(contract.DEFAULT_HEAD.name) == pytest.approx(0.01)
    lengths = {
        head.source.name: np.linalg.norm(fold(head)[0])
        for head in heads
        if head.source.kind == "affine"
    }
    for name, length in lengths.items():
        expected = 0.01 * length / lengths[contract.DEFAULT_HEAD.name]
        assert tolerance.of(name) == pytest.approx(expected, rel=1e-3)
    assert 0.15 < tolerance.of("sac_public_2022_06_29_vit_l_14_linear") < 0.21
    assert 0.001 < tolerance.of("ava+logos-l14-reluMSE") < 0.05
    assert tolerance.of("another") == 0.01


@pytest.fixture(scope="module")
def scorer() -> parity.Score:
    return parity.torch_scorer(AestheticHeads(seeded_heads(0)))


def score_differences(scorer: parity.Score, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    pairs = zip(contract.HEADS, scorer(a), scorer(b), strict=True)
    return {head.name: float(np.abs(one - other).max()) for head, one, other in pairs}


@pytest.fixture(scope="module")
def stressed():
    """A small stress tower, its images, and its fp32 embeddings."""
    tower, seen = stress_tower(SMALL)
    pixels = made_up_images(4)
    return tower, seen, pixels, embeddings(ClipImage(tower.module), pixels)


def test_the_stress_tower_has_a_trained_towers_ranges(stressed):
    _, seen, _, reference = stressed
    assert 2900 < seen.stream < 3200
    assert 590 < seen.hidden < 610
    assert 29 < seen.logits < 31
    last = seen.norm_inputs[-1]
    assert float(last.abs().max()) > 1000 * float(last.abs().median())  # as Sun et al. define it
    assert spread_of(reference) > 0.01  # and yet the images are told apart


def test_no_fp16_number_overflows_under_stress_and_scores_hold(stressed, scorer, tmp_path):
    tower, _, pixels, expected = stressed
    half = ClipImage(HalfTower(tower.module))
    output, found = run_watched(half, torch.from_numpy(pixels))
    assert found.operations > 40 * SMALL.layers
    assert 2000 < found.value < LIMIT / 10
    assert 2000 < found.sum < LIMIT / 10
    tolerance = tower_tolerance("fp16", scorer, expected)
    path, _ = onnx_from_module(half, contract.CLIP_IMAGE, tmp_path, external_data=True)
    by_onnx_runtime = parity.onnx_embedder(path)(pixels)
    for result in (output.numpy(), by_onnx_runtime):
        assert cosines(result, expected).min() > FP16_COSINE
        for name, difference in score_differences(scorer, result, expected).items():
            assert difference <= tolerance.of(name), name


def test_the_same_without_fp32_islands_overflows(stressed):
    """LayerNorm's squares. (The L2 norm stays below the limit here: it is fp32 for its bits.)"""
    tower, seen, pixels, _ = stressed
    squares = [bool(torch.isinf(x.half().square()).any()) for x in seen.norm_inputs]
    assert squares == [False] * 3 + [True] * 3  # from the massive activations on
    all_half = ClipImage(HalfTower(tower.module))
    for module in all_half.modules():
        if isinstance(module, HalfBlock):
            module.__class__ = NaiveBlock
    found = ranges_of(all_half, torch.from_numpy(pixels))
    assert found.value == float("inf")
    assert found.value_of.startswith(("pow", "mean", "mul"))


class NaiveBlock(HalfBlock):
    """Everything in fp16, LayerNorm by its formula."""

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        stream = stream.half()
        stream = stream + self.attend(naive_norm(self.ln_1, stream))
        hidden = self.fc(naive_norm(self.ln_2, stream))
        hidden = hidden * torch.sigmoid(QUICK_GELU_FACTOR * hidden)
        return (stream + self.proj(hidden)).float()


def naive_norm(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)  # inf: 3000 squared
    return centred / (variance + norm.eps).sqrt() * norm.weight.half() + norm.bias.half()


class HalfStreamBlock(HalfBlock):
    """The residual stream in fp16 too, all else as it is."""

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        stream = stream.half()
        stream = stream + self.attend(self.ln_1(stream.float()).half())
        hidden = self.fc(self.ln_2(stream.float()).half())
        hidden = hidden * torch.sigmoid(QUICK_GELU_FACTOR * hidden)
        return (stream + self.proj(hidden)).float()


def test_an_fp32_stream_is_nearer_to_fp32(stressed):
    tower, _, pixels, expected = stressed
    half = ClipImage(HalfTower(tower.module))
    errors = []
    for _ in range(2):
        found = run_watched(half, torch.from_numpy(pixels))[0].numpy()
        errors.append(np.linalg.norm(found - expected, axis=1).mean())
        for module in half.modules():
            if isinstance(module, HalfBlock):
                module.__class__ = HalfStreamBlock
    assert errors[0] < 0.85 * errors[1]


def test_activations_beyond_fp16_are_noticed():
    tower, _ = stress_tower(SMALL, Targets(stream=100_000))
    found = ranges_of(ClipImage(HalfTower(tower.module)), torch.from_numpy(made_up_images(2)))
    assert not found
    assert found.value == float("inf")
    assert not found.sum <= LIMIT  # a NaN by then


@pytest.mark.long
@pytest.mark.slow
def test_the_full_depth_and_width_holds_under_stress(scorer):
    """24 layers of width 1024; the sums are in fp32, as on tensor cores."""
    tower, seen = stress_tower(VIT_L_14)
    assert 2900 < seen.stream < 3200
    pixels = made_up_images(2)
    expected = embeddings(ClipImage(tower.module), pixels)
    output, found = run_watched(ClipImage(HalfTower(tower.module)), torch.from_numpy(pixels))
    assert 2000 < found.value < LIMIT / 10
    assert found.sum < LIMIT / 10
    assert cosines(output.numpy(), expected).min() > FP16_COSINE
    tolerance = tower_tolerance("fp16", scorer, expected)
    for name, difference in score_differences(scorer, output.numpy(), expected).items():
        assert difference <= tolerance.of(name), name
