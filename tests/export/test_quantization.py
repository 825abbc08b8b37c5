"""The tower's OpenVINO graph in fp32, bf16 and int8: what computes in which type, and how near."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openvino
import pytest
from torch import nn

from aesthetic_export import parity, quantization
from aesthetic_export.measures import cosines
from aesthetic_export.mixed_precision import keep_float32
from aesthetic_export.modules import ClipImage
from aesthetic_export.openvino_graph import model_from_tower
from aesthetic_export.quantization import Int8, Observed, quantize
from aesthetic_export.samples import made_up_images
from aesthetic_export.stress import stress_tower
from aesthetic_export.towers import ActivationError, Shape, seeded_tower
from towers import tiny_tower

SMALL = Shape(width=192, layers=3, heads=3)
SETTINGS = Int8(attention_from=1)  # of three blocks; the default is for 24
LAYERS = ("q", "k", "v", "out", "fc1", "fc2")


def embed(model: Any, pixels: np.ndarray, precision: str = "bf16") -> np.ndarray:
    hint = {"INFERENCE_PRECISION_HINT": precision}
    return np.array(openvino.Core().compile_model(model, "CPU", hint)(pixels)[0])


def runtime(model: Any) -> Iterator[tuple[str, str, str]]:
    """(name, kind, precision) of every node that OpenVINO executes in bf16 mode."""
    hint = {"INFERENCE_PRECISION_HINT": "bf16"}
    compiled: Any = openvino.Core().compile_model(model, "CPU", hint)
    for node in compiled.get_runtime_model().get_ops():
        known = node.get_rt_info()
        kind, precision = (known[key].astype(str) for key in ("layerType", "runtimePrecision"))
        yield node.get_friendly_name(), kind, precision


class Case:
    """A tower with its images, its torch embeddings, and its graphs."""

    def __init__(self, module: Any) -> None:
        pixels = made_up_images(6)
        self.calibration, self.pixels = pixels[:3], pixels[3:]
        self.expected = parity.run_torch(ClipImage(module), self.pixels)[0]
        self.graph = model_from_tower(module)

    def quantized(self, settings: Int8 = SETTINGS) -> Any:
        return quantize(self.graph, self.calibration, settings)

    def error(self, model: Any, precision: str = "bf16") -> float:
        """Mean distance of the embeddings from torch's."""
        found = embed(model, self.pixels, precision)
        return float(np.linalg.norm(found - self.expected, axis=1).mean())


@pytest.fixture(scope="module")
def tiny() -> Case:
    return Case(tiny_tower().module)


@pytest.fixture(scope="module")
def stressed() -> Case:
    return Case(stress_tower(SMALL)[0].module)


@pytest.fixture(scope="module")
def int8(stressed: Case) -> Any:
    return stressed.quantized()


def test_the_graph_computes_the_tower(tiny: Case, stressed: Case) -> None:
    for case, most in ((tiny, 2e-5), (stressed, 2e-4)):
        for batch in (case.pixels, case.pixels[:1]):
            found = embed(case.graph, batch, "f32")
            assert np.abs(found - case.expected[: len(batch)]).max() < most
            assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert tiny.graph.input("pixels").get_element_type() == openvino.Type.u8
    assert tiny.graph.output("embedding").get_partial_shape().to_string() == "[?,768]"


def test_the_last_block_computes_one_token() -> None:
    model = model_from_tower(seeded_tower(0, Shape(width=64, layers=2, heads=2)).module)
    tokens = {
        node.get_friendly_name(): node.output(0).get_partial_shape()[1].get_length()
        for node in model.get_ops()
        if node.get_friendly_name() in {f"block{i}/{layer}" for i in (0, 1) for layer in LAYERS}
    }
    assert {name: count for name, count in tokens.items() if count == 1} == {
        f"block1/{layer}": 1 for layer in ("q", "out", "fc1", "fc2")
    }
    assert set(tokens.values()) == {1, 257} and len(tokens) == 12


def test_a_tower_with_another_activation_is_refused() -> None:
    module: Any = tiny_tower().module
    module.transformer.resblocks[1].mlp.gelu = nn.GELU()
    with pytest.raises(ActivationError, match="layer 1"):
        model_from_tower(module)


def test_the_stream_and_the_norms_stay_in_fp32(stressed: Case, int8: Any) -> None:
    for model in (stressed.graph, int8):
        plain = {name: precision for name, _, precision in runtime(model)}
        kept = {name: precision for name, _, precision in runtime(keep_float32(model))}
        for name in ("block0/stream_1", "block1/stream_2", "block1/ln_1", "block2/ln_2", "ln_post"):
            assert (plain[name], kept[name]) == ("bf16", "f32"), name
    assert stressed.error(keep_float32(stressed.graph)) < 0.8 * stressed.error(stressed.graph)


def test_layers_are_in_int8_but_for_the_first_attention_and_the_last_block(int8: Any) -> None:
    found = {
        name.removesuffix("/bias"): precision
        for name, kind, precision in runtime(keep_float32(int8))
        if kind.startswith("FullyConnected")
    }
    for block in range(SMALL.layers):
        for layer in LAYERS:
            names = (f"block{block}/{layer}", f"block{block}/{layer}/DequantizationMultiply")
            (precision,) = (found[name] for name in names if name in found)
            attends = layer not in ("fc1", "fc2")
            expected = "bf16" if block == 2 or (block == 0 and attends) else "int8"
            assert ("int8" if precision in ("i8", "u8") else precision) == expected, names
    weights = {
        node.get_friendly_name(): node.get_element_type()
        for node in int8.get_ops()
        if node.get_friendly_name().endswith("/weight")
    }
    assert weights["block0/fc1/weight"] == openvino.Type.i8
    assert weights["block2/fc1/weight"] == weights["projection/weight"] == openvino.Type.f32


def test_int8_is_near_and_nearer_than_without_its_means(stressed: Case, int8: Any) -> None:
    found = keep_float32(int8)
    assert cosines(embed(found, stressed.pixels), stressed.expected).min() > 0.99
    naive = stressed.quantized(Int8(alphas=(0.0,), attention_from=0, last=0))
    assert stressed.error(found) < 0.9 * stressed.error(naive)


def test_what_is_left_out_is_not_quantised(tiny: Case) -> None:
    settings = Int8(layers=("fc1", "q"), attention_from=1, last=0)
    model = tiny.quantized(settings)
    found = {n.get_friendly_name() for n in model.get_ops() if n.get_type_name() == "FakeQuantize"}
    assert found == {f"{name}/quantized" for name in ("block0/fc1", "block1/fc1", "block1/q")}


def test_the_same_images_give_the_same_graph_and_the_first_one_stays(tiny: Case) -> None:
    before = embed(tiny.graph, tiny.pixels, "f32")
    one, other = (embed(tiny.quantized(), tiny.pixels) for _ in range(2))
    assert np.array_equal(one, other)
    assert np.array_equal(embed(tiny.graph, tiny.pixels, "f32"), before)


def test_an_input_channel_far_larger_than_the_others_gets_its_scale() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((64, 32)).astype(np.float32)
    rows[:, 5] *= 200
    weight = random.standard_normal((48, 32)).astype(np.float32)
    seen = Observed(rows, rows.min(0), rows.max(0))
    scale, low, high = quantization.search(seen, weight, Int8())
    assert scale[5] > 10 * np.delete(scale, 5).max()

    def relative_error(scale: np.ndarray, low: float, high: float) -> float:
        step = (high - low) / 255
        inputs = np.round((np.clip(rows / scale, low, high) - low) / step) * step + low
        steps = np.abs(weight * scale).max(1, keepdims=True) / 127
        found = inputs @ (np.round(weight * scale / steps) * steps).T
        return float(np.linalg.norm(found - rows @ weight.T) / np.linalg.norm(rows @ weight.T))

    searched = relative_error(scale, low, high)
    assert searched < 0.02
    assert searched < 0.5 * relative_error(np.ones(32), rows.min(), rows.max())


def test_weights_are_rounded_to_127_steps_of_each_output() -> None:
    weight = np.array([[1.27, -0.634, 0.0], [0.0, 0.0, 0.0]], np.float32)
    integers, steps = quantization.quantize_weight(weight)
    assert integers.dtype == np.int8 and integers.tolist() == [[127, -63, 0], [0, 0, 0]]
    assert steps[0] == pytest.approx(0.01)
