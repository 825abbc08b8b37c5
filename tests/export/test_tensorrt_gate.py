"""The compile gate: TensorRT-RTX parses, checks and compiles the graph for sm_89 without a GPU.

A proxy. It shares TensorRT's parser, type rules and builder API; its plans are not Triton's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aesthetic_client import contract
from aesthetic_client.contract import GRADIENT_PLAN, HEADS_PLAN, TOWER_PLAN
from aesthetic_export.files import FileStore
from aesthetic_export.heads import published_heads
from aesthetic_export.modules import AestheticHeads
from aesthetic_export.onnx_export import onnx_from_module
from aesthetic_export.tensorrt_builder import (
    Batches,
    PlanBuildError,
    make_logger,
    plan_from_onnx,
)

rtx = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="tensorrt-rtx-cu13-libs and -bindings are not installed"
)

# The facts: 7 s for the whole tower; anything near this is another builder.
GATE_S = 120


def for_sm89(config: Any) -> None:
    """Ahead of time, for one architecture, whatever this machine has."""
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(rtx.ComputeCapability.SM89, 0)


def compiled(
    path: Path,
    plan: contract.Plan = TOWER_PLAN,
    configure: Callable[[Any], None] = for_sm89,
    **options: Any,
) -> Any:
    batches = Batches.of(plan)
    return plan_from_onnx(
        rtx, path, model=plan.model, batches=batches, configure=configure, **options
    )


@pytest.mark.slow
def test_the_whole_fp16_tower_compiles(full_fp16_repository):
    path = full_fp16_repository / "clip_image" / "1" / contract.ONNX_CUDA.artifact
    begun = time.monotonic()
    plan = compiled(path)
    assert time.monotonic() - begun < GATE_S
    assert 600e6 < plan.nbytes < 700e6  # 304 M weights of two bytes


@pytest.fixture(scope="module")
def heads_onnx(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published heads, as they are served."""
    folder = tmp_path_factory.mktemp("heads")
    heads = published_heads(FileStore(folder / "cache", (shared_data / "heads",)))
    (path,) = onnx_from_module(AestheticHeads(heads), contract.AESTHETIC_HEADS, folder)
    return path


def test_the_real_heads_compile_in_fp32_without_tf32(heads_onnx):
    flags = []

    def configure(config: Any) -> None:
        for_sm89(config)
        flags.append(config.get_flag(rtx.BuilderFlag.TF32))

    assert 4.5e6 < compiled(heads_onnx, HEADS_PLAN, configure).nbytes < 5.5e6  # the MLP: 0.9 M
    assert flags == [False]
    assert rtx.Builder(make_logger(rtx)).create_builder_config().get_flag(rtx.BuilderFlag.TF32)


def test_every_number_of_the_heads_is_fp32_from_input_to_scores(heads_onnx):
    logger = make_logger(rtx)
    network = rtx.Builder(logger).create_network(0)
    parser = rtx.OnnxParser(network, logger)
    assert parser.parse_from_file(str(heads_onnx))
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    tensors = [layer.get_output(index) for layer in layers for index in range(layer.num_outputs)]
    given = network.get_input(0)
    assert (given.name, given.dtype, tuple(given.shape)) == ("embedding", rtx.float32, (-1, 768))
    assert {tensor.dtype for tensor in tensors} == {rtx.float32}
    scores = [network.get_output(index).name for index in range(network.num_outputs)]
    assert scores == [tensor.name for tensor in contract.SCORES]


# RTX measures nothing, but takes the calls.
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_the_tiny_tower_compiles_with_progress_and_a_timing_cache(half_onnx, tmp_path):
    calls: list[tuple[str, int, int]] = []
    cache = tmp_path / "deep" / "cache.timing"
    plan = compiled(half_onnx, timing_cache=cache, on_phase=lambda *call: calls.append(call))
    assert plan.nbytes > 200_000
    assert cache.stat().st_size > 0
    begun = {name for name, done, _ in calls if done == 0}
    ended = {name for name, done, steps in calls if done == steps}
    assert "Building engine" in begun
    assert begun == ended
    assert all(0 <= done <= steps for _, done, steps in calls)
    assert compiled(half_onnx, timing_cache=cache).nbytes == plan.nbytes


def test_the_way_back_compiles_in_fp32(gradient_export):
    """Forward and backward pass of the tiny tower, as `aesthetic_gradient` serves them."""
    folder, _, _ = gradient_export
    plan = compiled(folder / contract.DEFAULT_PROFILE.artifact, GRADIENT_PLAN)
    # 1.1 M weights of four bytes, in more than one layout: forward and back read them differently
    assert 4e6 < plan.nbytes < 20e6


def test_the_profiles_are_the_contracts():
    shapes = Batches.of(TOWER_PLAN).shapes(contract.CLIP_IMAGE)
    assert shapes == {"pixels": ((1, 224, 224, 3), (32, 224, 224, 3), (128, 224, 224, 3))}
    shapes = Batches.of(HEADS_PLAN).shapes(contract.AESTHETIC_HEADS)
    assert shapes == {"embedding": ((1, 768), (128, 768), (4096, 768))}
    shapes = Batches.of(GRADIENT_PLAN).shapes(contract.AESTHETIC_GRADIENT)
    assert shapes["head_weights"] == ((1, 5), (8, 5), (8, 5))
    assert Batches.of(TOWER_PLAN, 16) == Batches(opt=16, max=128, min=1)
    for wrong in ({"opt": 32, "min": 0}, {"opt": 0}, {"opt": 129}, {"opt": 4, "min": 5}):
        with pytest.raises(ValueError, match="min <= opt <= max"):
            Batches(**{"max": 128, **wrong})


def test_a_profile_that_the_graph_does_not_take_is_refused(half_onnx):
    with pytest.raises(PlanBuildError, match="TensorRT"):
        compiled(half_onnx, HEADS_PLAN)  # its input is `embedding`


def saved(folder: Path, nodes: list[onnx.NodeProto], *weights: onnx.TensorProto) -> Path:
    """A graph from `pixels` to `embedding`."""
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 224, 224, 3])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [pixels], [embedding], list(weights))
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "model.onnx")
    return folder / "model.onnx"


def cast(to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", ["pixels"], ["x"], to=to, name="cast")


def weight(dtype: type) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.ones((3, 8), dtype), "w")


def product(output: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", ["x", "w"], [output], name="product")


def test_a_product_of_fp16_and_fp32_is_refused_by_name(tmp_path):
    mixed = saved(tmp_path, [cast(TensorProto.FLOAT16), product("embedding")], weight(np.float32))
    with pytest.raises(PlanBuildError, match="does not support") as caught:
        compiled(mixed)
    text = str(caught.value)
    assert "MatMul product" in text
    assert "Half" in text
    assert "Float" in text
    assert "\n" not in text
    same = saved(tmp_path, [cast(TensorProto.FLOAT), product("embedding")], weight(np.float32))
    assert compiled(same).nbytes > 0


@pytest.mark.parametrize("operator", ["Det", "StringNormalizer"])
def test_an_operator_that_it_does_not_have_is_refused_by_name(tmp_path, operator):
    nodes = [
        cast(TensorProto.FLOAT),
        helper.make_node(operator, ["x"], ["y"], name="the_odd_one"),
        helper.make_node("MatMul", ["y", "w"], ["embedding"], name="product"),
    ]
    with pytest.raises(PlanBuildError, match=f"{operator} the_odd_one"):
        compiled(saved(tmp_path, nodes, weight(np.float32)))


def test_uint8_may_only_be_cast(tmp_path):
    """Why ClipImage casts before it transposes."""
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["t"], perm=[0, 3, 1, 2], name="turned"),
        helper.make_node("Cast", ["t"], ["embedding"], to=TensorProto.FLOAT, name="cast"),
    ]
    with pytest.raises(PlanBuildError, match=r"Transpose turned.*UInt8"):
        compiled(saved(tmp_path, nodes))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(PlanBuildError, match=r"model\.onnx"):
        compiled(tmp_path / "model.onnx")


def test_weights_that_are_not_beside_the_graph_are_noticed(half_onnx, tmp_path):
    lonely = tmp_path / half_onnx.name
    lonely.write_bytes(half_onnx.read_bytes())
    with pytest.raises(PlanBuildError, match=half_onnx.name):
        compiled(lonely)
