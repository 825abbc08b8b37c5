"""The image tower as an OpenVINO graph, written for what OpenVINO's CPU plugin is fast at.

Built from the torch tower's own weights in float64, so that what can be computed at export is:

- the patch embedding is a reshape and a matrix product: OpenVINO quantises its convolution badly;
- /255, mean and std lie in its weights and bias, the class token in the position embedding;
- LayerNorm's weight and bias lie in the matrix after it, which leaves a plain normalisation (MVN);
- 1/sqrt(64) lies in q; the bias of k, which softmax cancels, is dropped; that of v, which softmax's
  rows of sum one carry through, lies in the output projection's;
- the last block computes its class token alone (156.4 instead of 162.0 GFLOP): nothing else of it
  is read.

Every node that quantization.py and mixed_precision.py speak of has a name: `block3/fc1`, `ln_post`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aesthetic_client import contract
from aesthetic_client.pixels import CLIP_MEAN, CLIP_STD
from aesthetic_export.towers import QUICK_GELU_FACTOR, check_quick_gelu

if TYPE_CHECKING:
    import openvino
    from torch import nn

Array = npt.NDArray[Any]

LENGTH_FLOOR = 1e-24  # of the squared length: torch's F.normalize has the floor 1e-12


def model_from_tower(tower: nn.Module) -> openvino.Model:
    """The contract's `clip_image` in fp32, from open_clip's vision transformer (towers.py).

    In: `pixels`, (N, 224, 224, 3) uint8. Out: `embedding`, (N, 768) fp32 of length 1.
    Raises ActivationError unless the tower computes QuickGELU.
    """
    import openvino

    check_quick_gelu(tower)
    pixels, embedding = _Builder(tower).clip_image()
    return openvino.Model([embedding], [pixels], contract.CLIP_IMAGE.name)


class _Builder:
    """One tower's weights, float64, and the graph of its parts. Nodes are untyped in OpenVINO."""

    def __init__(self, tower: Any) -> None:
        from openvino import opset13

        self.op: Any = opset13
        self.weights: dict[str, Array] = {
            name: tensor.detach().double().numpy() for name, tensor in tower.state_dict().items()
        }
        self.width: int = tower.class_embedding.shape[0]
        self.patch: int = tower.conv1.stride[0]
        self.layers = len(tower.transformer.resblocks)
        self.heads = int(tower.transformer.resblocks[0].attn.num_heads)
        self.eps = float(tower.ln_post.eps)

    def clip_image(self) -> tuple[Any, Any]:
        op = self.op
        (tensor,), (output,) = contract.CLIP_IMAGE.inputs, contract.CLIP_IMAGE.outputs
        pixels = op.parameter([-1, *tensor.dims], np.uint8, name=tensor.name)
        pixels.output(0).set_names({tensor.name})
        stream = self.embed_patches(pixels)
        for index in range(self.layers):
            stream = self.block(stream, index, last=index == self.layers - 1)
        pooled = self.named(self.reshape(stream, [0, self.width]), "pooled")
        weight, bias = self.after_norm("ln_post", self.weights["proj"].T)
        features = self.linear(self.normalize(pooled, "ln_post"), weight, bias, "projection")
        unit = op.normalize_l2(features, self.integers([1]), LENGTH_FLOOR, "max")
        unit.set_friendly_name(output.name)
        result = op.result(unit)
        result.output(0).set_names({output.name})
        return pixels, result

    def embed_patches(self, pixels: Any) -> Any:
        """(N, 224, 224, 3) uint8 -> (N, 257, width), the residual stream."""
        op, side = self.op, self.patch
        grid = contract.IMAGE_SIZE // side
        rows = self.reshape(pixels, [0, grid, side, grid, side, 3])
        rows = self.transpose(rows, [0, 1, 3, 2, 4, 5])
        rows = self.reshape(rows, [0, grid * grid, side * side * 3])
        # A row of zeros, to which the class token is then added with the positions.
        zero = op.constant(np.uint8(0))
        rows = op.pad(rows, self.integers([0, 1, 0]), self.integers([0, 0, 0]), "constant", zero)
        values = self.named(op.convert(rows, "f32"), "pixels/float")
        kernel = self.weights["conv1.weight"]  # (width, 3, side, side), for (p / 255 - mean) / std
        mean, std = (np.array(three).reshape(1, 3, 1, 1) for three in (CLIP_MEAN, CLIP_STD))
        weight = (kernel / (255 * std)).transpose(0, 2, 3, 1).reshape(self.width, -1)
        positions = self.weights["positional_embedding"].copy()  # (257, width)
        positions[0] += self.weights["class_embedding"]
        positions[1:] -= (kernel * mean / std).sum((1, 2, 3))
        patches = self.linear(values, weight, positions, "patches")
        scale, shift = (self.weights[f"ln_pre.{part}"] for part in ("weight", "bias"))
        scaled = op.multiply(self.normalize(patches, "ln_pre"), self.constant(scale[None, None]))
        scaled.set_friendly_name("ln_pre/scale")
        return self.named(op.add(scaled, self.constant(shift[None, None])), "stream")

    def block(self, stream: Any, index: int, *, last: bool) -> Any:
        """(N, 257, width) -> the same; the last one gives (N, 1, width), its class token."""
        name, source = f"block{index}", f"transformer.resblocks.{index}"
        given = self.attend(self.normalize(stream, f"{name}/ln_1"), name, source, last=last)
        if last:
            stream = self.class_token(stream, f"{name}/class_token")
        stream = self.named(self.op.add(stream, given), f"{name}/stream_1")
        weight, bias = self.after_norm(f"{source}.ln_2", *self.layer(f"{source}.mlp.c_fc"))
        normed = self.normalize(stream, f"{name}/ln_2")
        hidden = self.op.swish(
            self.linear(normed, weight, bias, f"{name}/fc1"),
            self.op.constant(np.float32(QUICK_GELU_FACTOR)),
        )
        hidden.set_friendly_name(f"{name}/gelu")
        given = self.linear(hidden, *self.layer(f"{source}.mlp.c_proj"), f"{name}/fc2")
        return self.named(self.op.add(stream, given), f"{name}/stream_2")

    def attend(self, normed: Any, name: str, source: str, *, last: bool) -> Any:
        op, width = self.op, self.width
        weight, bias = self.after_norm(
            f"{source}.ln_1",
            self.weights[f"{source}.attn.in_proj_weight"],
            self.weights[f"{source}.attn.in_proj_bias"],
        )
        (q_weight, k_weight, v_weight), (q_bias, _, v_bias) = np.split(weight, 3), np.split(bias, 3)
        scale = 1 / np.sqrt(width // self.heads)
        asking = self.class_token(normed, f"{name}/query_token") if last else normed
        q = self.by_head(self.linear(asking, q_weight * scale, q_bias * scale, f"{name}/q"))
        k = self.by_head(self.linear(normed, k_weight, None, f"{name}/k"))
        v = self.by_head(self.linear(normed, v_weight, None, f"{name}/v"))
        logits = self.named(op.matmul(q, k, False, True), f"{name}/logits")
        attention = self.named(op.softmax(logits, -1), f"{name}/attention")
        mixed = self.named(op.matmul(attention, v, False, False), f"{name}/mixed")
        rows = self.reshape(self.transpose(mixed, [0, 2, 1, 3]), [0, 0, width])
        out_weight, out_bias = self.layer(f"{source}.attn.out_proj")
        return self.linear(rows, out_weight, out_bias + out_weight @ v_bias, f"{name}/out")

    def after_norm(
        self, norm: str, weight: Array, bias: Array | None = None
    ) -> tuple[Array, Array]:
        """A layer's weight (outputs, inputs) and bias with those of the LayerNorm before it."""
        shift = weight @ self.weights[f"{norm}.bias"]
        scaled: Array = weight * self.weights[f"{norm}.weight"]
        return scaled, shift if bias is None else bias + shift

    def layer(self, name: str) -> tuple[Array, Array]:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def linear(self, x: Any, weight: Array, bias: Array | None, name: str) -> Any:
        """x @ weight.T + bias, as the nodes `name` and `name`/bias. weight: (outputs, inputs)"""
        constant = self.named(self.constant(weight), f"{name}/weight")
        product = self.named(self.op.matmul(x, constant, False, True), name)
        if bias is None:
            return product
        return self.named(self.op.add(product, self.constant(bias[None])), f"{name}/bias")

    def normalize(self, x: Any, name: str) -> Any:
        """LayerNorm without its weight and bias."""
        return self.named(self.op.mvn(x, self.integers([-1]), True, self.eps, "inside_sqrt"), name)

    def by_head(self, x: Any) -> Any:
        """(N, tokens, width) -> (N, heads, tokens, width / heads)"""
        heads = self.reshape(x, [0, 0, self.heads, self.width // self.heads])
        return self.transpose(heads, [0, 2, 1, 3])

    def class_token(self, x: Any, name: str) -> Any:
        """(N, 257, width) -> (N, 1, width)"""
        zero, one = self.integers([0]), self.integers([1])
        return self.named(self.op.slice(x, zero, one, one, one), name)

    def reshape(self, x: Any, dims: list[int]) -> Any:
        """0 keeps a dimension."""
        return self.op.reshape(x, self.integers(dims), True)

    def transpose(self, x: Any, order: list[int]) -> Any:
        return self.op.transpose(x, self.integers(order))

    def integers(self, values: list[int]) -> Any:
        return self.op.constant(np.array(values, np.int64))

    def constant(self, values: Array) -> Any:
        return self.op.constant(np.ascontiguousarray(values, dtype=np.float32))

    @staticmethod
    def named(node: Any, name: str) -> Any:
        node.set_friendly_name(name)
        return node
