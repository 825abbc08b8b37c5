"""A repository whose image tower takes next to no time: what is left is what serving costs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from aesthetic_client import contract

TOWER = contract.CLIP_IMAGE.name
OPSET = 18


def instant_repository(source: Path, target: Path, profile: contract.Profile) -> Path:
    """A copy of the models that score images, with an instant tower in `profile`'s place.

    The configs, and so batching, queues and engine options, are the source's. Returns `target`.
    """
    models = {TOWER, *contract.AESTHETIC.steps, contract.AESTHETIC_PIXELS.name}
    for name in sorted({*models, contract.AESTHETIC.name}):
        # Version folders of the tower hold gigabytes.
        ignore = shutil.ignore_patterns("model.*", "provenance*") if name == TOWER else None
        shutil.copytree(source / name, target / name, ignore=ignore)
    version = target / TOWER / "1"
    version.mkdir(exist_ok=True)
    onnx_file = version / contract.DEFAULT_PROFILE.artifact
    write_instant_tower(onnx_file)
    if profile.backend == "openvino":
        import openvino

        openvino.serialize(openvino.Core().read_model(onnx_file), version / profile.artifact)
    return target


def write_instant_tower(file: Path) -> None:
    """ONNX: `pixels` (n, 224, 224, 3) uint8 to a unit `embedding` (n, 768), by the mean colour."""
    from onnx import TensorProto, helper, numpy_helper, save

    spread = np.random.default_rng(0).normal(size=(3, contract.EMBEDDING_DIM)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", [contract.PIXELS.name], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "spread"], ["direction"]),
        helper.make_node("LpNormalization", ["direction"], [contract.EMBEDDING.name], axis=-1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "instant_tower",
        [_port(contract.PIXELS, TensorProto.UINT8)],
        [_port(contract.EMBEDDING, TensorProto.FLOAT)],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(spread, "spread"),
        ],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=8), file)


def _port(tensor: contract.Tensor, kind: int) -> object:
    from onnx import helper

    return helper.make_tensor_value_info(tensor.name, kind, ["batch", *tensor.dims])
