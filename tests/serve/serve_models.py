"""Tiny models, and repositories that hold them. Opset 17, milliseconds of work."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from aesthetic_client import contract

MODEL_REPOSITORY = Path(__file__).parents[2] / "model_repository"
FP32, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8

Value = tuple[str, int, list[object]]  # name, type, dims with the batch axis; a string is free


def write_onnx(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: dict[str, np.ndarray] | None = None,
) -> None:
    """An ONNX file at `path`; its folder is made."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def write_model(folder: Path, config: str, file: str = "model.onnx", **onnx_model: object) -> None:
    """A model's folder: config.pbtxt, and version 1 where a graph is given."""
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    if onnx_model:
        write_onnx(folder / "1" / file, **onnx_model)  # type: ignore[arg-type]


def sum_and_difference(batch: object = "N", size: object = 4) -> dict[str, object]:
    """s = a + b, d = a - b."""
    return {
        "nodes": [
            helper.make_node("Add", ["a", "b"], ["s"]),
            helper.make_node("Sub", ["a", "b"], ["d"]),
        ],
        "inputs": [(name, FP32, [batch, size]) for name in "ab"],
        "outputs": [(name, FP32, [batch, size]) for name in "sd"],
    }


SUM_AND_DIFFERENCE_IO = """
input [
  { name: "a" data_type: TYPE_FP32 dims: [ 4 ] },
  { name: "b" data_type: TYPE_FP32 dims: [ 4 ] }
]
output [
  { name: "s" data_type: TYPE_FP32 dims: [ 4 ] },
  { name: "d" data_type: TYPE_FP32 dims: [ 4 ] }
]
instance_group [ { count: 1 } ]
"""


def lookup() -> dict[str, object]:
    """row -> table[row], for rows 0 to 3: a row of 4 or more fails when it runs, not before."""
    return {
        "nodes": [helper.make_node("Gather", ["table", "row"], ["value"], axis=0)],
        "inputs": [("row", INT64, ["N", 1])],
        "outputs": [("value", FP32, ["N", 1])],
        "constants": {"table": np.array([10, 11, 12, 13], np.float32)},
    }


LOOKUP_IO = """
input [ { name: "row" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "value" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 1 } ]
"""


def write_scoring_repository(target: Path) -> Path:
    """The project's own repository over a toy tower: mean colour, projected to 768 and normalised.

    The scores mean nothing, but everything around the tower is real. Returns `target`.
    """
    # Their folders hold the models that `aesthetic export --with` adds.
    add_ons = [add_on.name for add_on in contract.ADD_ONS]
    unserved = shutil.ignore_patterns("*.onnx", ".gitkeep", *add_ons)
    shutil.copytree(MODEL_REPOSITORY, target, ignore=unserved)
    for model in contract.MODELS:
        (target / model.name / "1").mkdir(exist_ok=True)
    rng = np.random.default_rng(7)
    write_onnx(
        target / "clip_image" / "1" / "model.onnx",
        [
            helper.make_node("Cast", ["pixels"], ["floats"], to=FP32),
            helper.make_node("ReduceMean", ["floats"], ["colour"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["colour", "projection"], ["raw"]),
            helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=-1, p=2),
        ],
        [("pixels", UINT8, ["N", *contract.PIXELS.dims])],
        [("embedding", FP32, ["N", contract.EMBEDDING_DIM])],
        {"projection": rng.normal(size=(3, contract.EMBEDDING_DIM)).astype(np.float32)},
    )
    write_onnx(
        target / "aesthetic_heads" / "1" / "model.onnx",
        [
            helper.make_node("MatMul", ["embedding", f"w_{t.name}"], [t.name])
            for t in contract.SCORES
        ],
        [("embedding", FP32, ["N", contract.EMBEDDING_DIM])],
        [(tensor.name, FP32, ["N", 1]) for tensor in contract.SCORES],
        {
            f"w_{tensor.name}": rng.normal(size=(contract.EMBEDDING_DIM, 1)).astype(np.float32)
            for tensor in contract.SCORES
        },
    )
    return target
