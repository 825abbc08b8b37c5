"""The tower's matrix products in int8, calibrated on images; all else stays as it was.

Post-training quantization of a graph of openvino_graph.py, its linear layers found by name. Each
gets weights in int8, a scale for every output, and inputs in uint8, one scale and one zero point
for the whole tensor, as integer matrix units want them. What such a tensor loses most by is a few
channels far larger than the others, as trained transformers have them; a scale for every input
channel moves between activation and weight so that both fit (SmoothQuant: Xiao et al.,
arXiv:2211.10438), and how far it moves is searched for each layer by the error of its outputs on
the calibration images (as AWQ searches its scales: Lin et al., arXiv:2306.00978). The mean error
of every output goes into the bias (Nagel et al., arXiv:1906.04721).

Measured with the fp32 islands of mixed_precision.py, 8 photographs for calibration and 15 others
compared, largest drift of all heads in the default head's points: 0.024 on the whole ViT-L/14 of
random weights, as it is by default. On the whole stress tower (stress.py, beyond published ranges)
0.28 with every attention but the last in int8 and 0.19 without the first four, at 2% of the speed;
bf16 with the same islands has 0.14 there. Clipping the inputs' ranges made nothing better under
stress. Random weights: lower bounds; every export measures its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aesthetic_export.parity import Pixels

if TYPE_CHECKING:
    import openvino

Array = npt.NDArray[np.float32]

# `out` comes before `v`, whose weights take over its input's scales.
ATTENTION = ("out", "q", "k", "v")
LAYERS = (*ATTENTION, "fc1", "fc2")
LEVELS = 255  # of uint8 inputs
WEIGHT_LEVEL = 127  # of int8 weights, both ways
# What is tried for each input: 0 leaves all to the weights' scales, 1 all to the inputs'.
ALPHAS = (0.0, 0.5, 0.6, 0.7, 0.8)
CLIPS = (1.0,)  # of the range of the inputs


@dataclass(frozen=True)
class Int8:
    """What is quantised, and from how much.

    layers: those of a block in int8. attention_from: the first block whose attention is; an error
    made before is carried through all blocks, and softmax magnifies it. first, last: so many blocks
    at either end stay as they are; the last one computes a class token, whose layers cost little,
    and what it spoils is not mended.
    tokens: so many of each calibration image, the class token and others by `seed`, are looked at.
    alphas, clips: what is searched.
    """

    layers: Sequence[str] = LAYERS
    attention_from: int = 4
    first: int = 0
    last: int = 1
    tokens: int = 32
    seed: int = 0
    alphas: Sequence[float] = ALPHAS
    clips: Sequence[float] = CLIPS


@dataclass(frozen=True)
class Observed:
    """A layer's input over the calibration images: (rows, channels), and each channel's range."""

    rows: Array
    low: Array
    high: Array


def quantize(model: openvino.Model, calibration: Pixels, settings: Int8 = Int8()) -> openvino.Model:
    """`model` with its linear layers in int8; the given one is left as it is.

    calibration: (n, 224, 224, 3) uint8, photographs like those to be scored; 16 are enough.
    The same arguments give the same model.
    """
    quantized = model.clone()
    nodes: dict[str, Any] = {node.get_friendly_name(): node for node in quantized.get_ops()}
    groups: dict[str, list[str]] = {}  # layers that read the same input share its scales
    blocks = sum(name.endswith("/ln_1") for name in nodes)
    for block in range(settings.first, blocks - settings.last):
        for layer in settings.layers:
            if layer in ATTENTION and block < settings.attention_from:
                continue
            name = f"block{block}/{layer}"
            groups.setdefault(nodes[name].input_value(0).get_node().get_name(), []).append(name)
    observed = observe(model, [group[0] for group in groups.values()], calibration, settings)
    for group in groups.values():
        seen = observed[group[0]]
        _quantize_group([nodes[name] for name in group], nodes, seen, settings)
    quantized.validate_nodes_and_infer_types()
    return quantized


def observe(
    model: openvino.Model, layers: Sequence[str], calibration: Pixels, settings: Int8
) -> Mapping[str, Observed]:
    """What goes into each of `layers` (names of matrix products) in fp32, image by image."""
    import openvino
    from openvino import opset13 as op

    watched = model.clone()
    nodes: dict[str, Any] = {node.get_friendly_name(): node for node in watched.get_ops()}
    axes, middle = op.constant(np.array([0, 1])), op.constant(np.int64(1))
    random = np.random.default_rng(settings.seed)
    results: list[Any] = []
    for layer in layers:
        inputs = nodes[layer].input_value(0)
        tokens = inputs.get_partial_shape()[1].get_length()
        others = 1 + random.permutation(tokens - 1)[: settings.tokens - 1]
        chosen = np.array([0, *sorted(others)])  # the class token is what is read in the end
        some = op.gather(inputs, op.constant(chosen), middle)
        low, high = op.reduce_min(inputs, axes), op.reduce_max(inputs, axes)
        results += [op.result(output) for output in (some, low, high)]
    watched.add_results(results)
    compiled: Any = openvino.Core().compile_model(
        watched, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    found: dict[str, list[list[Any]]] = {layer: [] for layer in layers}
    for pixels in calibration:
        values = list(compiled(pixels[None]).values())[len(model.outputs) :]
        for layer, *three in zip(layers, values[::3], values[1::3], values[2::3], strict=True):
            found[layer].append(three)
    return {
        layer: Observed(
            np.concatenate([some[0] for some, _, _ in seen]),
            np.min([low for _, low, _ in seen], axis=0),
            np.max([high for _, _, high in seen], axis=0),
        )
        for layer, seen in found.items()
    }


def _quantize_group(
    products: Sequence[Any], nodes: Mapping[str, Any], seen: Observed, settings: Int8
) -> None:
    """Layers that read one input: one quantised input for all, and each its weights."""
    from openvino import opset13 as op

    weights = [product.input_value(1).get_node().get_data() for product in products]
    stacked = np.concatenate(weights)
    scale, low, high = search(seen, stacked, settings)
    name = products[0].get_friendly_name()

    def row(values: Any) -> Any:
        return op.constant(np.asarray(values, np.float32).reshape(1, 1, -1))

    scaled = _scaled_inputs(products[0], nodes, scale)
    ends = (op.constant(np.float32(low)), op.constant(np.float32(high)))
    inputs = op.fake_quantize(scaled, *ends, *ends, LEVELS + 1)
    inputs.set_friendly_name(f"{name}/quantized")
    correction = _bias_correction(seen.rows, stacked, scale, low, high)
    parts = np.split(correction, np.cumsum([len(weight) for weight in weights])[:-1])
    for product, weight, part in zip(products, weights, parts, strict=True):
        own = product.get_friendly_name()
        integers, steps = quantize_weight(weight * scale)
        stored = op.constant(integers)
        stored.set_friendly_name(f"{own}/weight")
        restored = op.multiply(op.convert(stored, "f32"), op.constant(steps[:, None]))
        product.input(0).replace_source_output(inputs.output(0))
        product.input(1).replace_source_output(restored.output(0))
        bias = nodes.get(f"{own}/bias")
        if bias is None:
            targets = product.output(0).get_target_inputs()
            added = op.add(product, row(part))
            added.set_friendly_name(f"{own}/bias")
            for target in targets:
                target.replace_source_output(added.output(0))
        else:
            constant = bias.input_value(1).get_node()
            corrected = constant.get_data() + part
            bias.input(1).replace_source_output(op.constant(corrected).output(0))


def _scaled_inputs(product: Any, nodes: Mapping[str, Any], scale: Array) -> Any:
    """The layer's inputs / scale. What `out` reads is linear in v, whose weights are divided."""
    from openvino import opset13 as op

    name = product.get_friendly_name()
    if not name.endswith("/out"):
        factors = op.constant((1 / scale).reshape(1, 1, -1))
        scaled = op.multiply(product.input_value(0), factors)
        scaled.set_friendly_name(f"{name}/scaled")
        return scaled
    v = nodes[f"{name.removesuffix('/out')}/v"]
    weight = v.input_value(1).get_node().get_data() / scale[:, None]
    v.input(1).replace_source_output(op.constant(weight).output(0))
    return product.input_value(0)


def search(seen: Observed, weight: Array, settings: Int8) -> tuple[Array, float, float]:
    """Each input channel's scale, and the range of the scaled inputs that LEVELS steps span.

    weight: (outputs, channels). The smallest squared error of the outputs decides.
    """
    exact = seen.rows @ weight.T
    largest = np.maximum(np.maximum(np.abs(seen.low), np.abs(seen.high)), 1e-5)
    columns = np.maximum(np.abs(weight).max(0), 1e-8)
    best: tuple[float, Array, float, float] | None = None
    for alpha in settings.alphas:
        scale = largest**alpha / columns ** (1 - alpha) if alpha else np.ones_like(largest)
        scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
        integers, steps = quantize_weight(weight * scale)
        rounded = integers * steps[:, None]
        for clip in settings.clips:
            low = clip * min(float((seen.low / scale).min()), 0.0)
            high = clip * max(float((seen.high / scale).max()), 0.0)
            found = quantize_rows(seen.rows / scale, low, high) @ rounded.T
            error = float(np.square(found - exact).sum())
            if best is None or error < best[0]:
                best = (error, scale, low, high)
    assert best is not None
    return best[1:]


def quantize_weight(weight: Array) -> tuple[npt.NDArray[np.int8], Array]:
    """(outputs, inputs) -> the same in int8, and the step of every output, (outputs,)"""
    steps = np.maximum(np.abs(weight).max(1), 1e-12) / WEIGHT_LEVEL
    return np.rint(weight / steps[:, None]).astype(np.int8), steps.astype(np.float32)


def quantize_rows(rows: Array, low: float, high: float) -> Array:
    """`rows` on the LEVELS steps from `low` to `high`, as OpenVINO's FakeQuantize puts them."""
    step = (high - low) / LEVELS
    levels = np.rint((np.clip(rows, low, high) - low) / step)
    rounded: Array = (levels * step + low).astype(np.float32)
    return rounded


def _bias_correction(rows: Array, weight: Array, scale: Array, low: float, high: float) -> Array:
    """(outputs,): what the quantised layer's outputs lack on average."""
    integers, steps = quantize_weight(weight * scale)
    found = quantize_rows(rows / scale, low, high) @ (integers * steps[:, None]).T
    correction: Array = (rows @ weight.T - found).mean(0)
    return correction
