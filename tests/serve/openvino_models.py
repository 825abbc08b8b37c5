"""Tiny models in OpenVINO's format, as `write_model` of serve_models.py writes ONNX ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as op

SIZE = 64


def named(node: Any, name: str) -> Any:
    node.output(0).set_names({name})
    return node


def product(batch: int = -1) -> openvino.Model:
    """y = x @ weight for x (batch, SIZE), the same weight each time; bfloat16 gives another y."""
    x = named(op.parameter([batch, SIZE], np.float32), "x")
    y = named(op.matmul(x, op.constant(weight()), False, False), "y")
    return openvino.Model([op.result(y)], [x], "product")


def weight() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)


def four_only() -> openvino.Model:
    """value = row + 10 where every row of a batch is 4; a larger one fails when it runs."""
    row = named(op.parameter([-1, 1], np.int64), "row")
    largest = op.reduce_max(row, np.array([0, 1]), False)
    steps = op.range(op.constant(np.int64(0)), largest, op.constant(np.int64(1)), "f32")
    # Of four and of `largest` items: these do not add up unless both are equal.
    ten = op.reduce_sum(op.add(op.constant(np.ones(4, np.float32)), steps), np.array([0]), False)
    value = named(op.add(op.convert(row, "f32"), ten), "value")
    return openvino.Model([op.result(value)], [row], "four_only")


PRODUCT_IO = f"""
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {SIZE} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {SIZE} ] }} ]
instance_group [ {{ count: 1 }} ]
"""
FOUR_ONLY_IO = """
input [ { name: "row" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "value" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 1 } ]
"""


def write_openvino(
    folder: Path,
    config: str,
    model: Callable[[], openvino.Model] = product,
    file: str = "model.xml",
    batch: int = 8,
) -> None:
    """A model's folder: config.pbtxt, and version 1 with `file` and its weights."""
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(f'backend: "openvino" max_batch_size: {batch} {config}')
    openvino.save_model(model(), folder / "1" / file, compress_to_fp16=False)


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
