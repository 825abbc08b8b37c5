"""The heads as data beside their ONNX file: what scores stored embeddings with numpy alone.

A safetensors file. An affine head has `OUTPUT.weight` (768,) and `OUTPUT.bias` (1,), folded, in
float64; a relu_mlp has `OUTPUT.layers.N.weight` (outputs, inputs) and `.bias` (outputs,), from 0
on, in float32. A scaled_affine head's weight has its sqrt(768); its input is to be normalised. The
metadata is the provenance, as in the served config: `provenance.heads` has a row a head, in order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aesthetic_client import contract
from aesthetic_export.added_heads import served_head
from aesthetic_export.heads import HeadWeights, fold
from aesthetic_export.measures import FloatArray
from aesthetic_export.provenance import Provenance, metadata_of
from aesthetic_export.tolerances import Score

Array = npt.NDArray[Any]


def write_heads_data(
    folder: Path, heads: Sequence[HeadWeights], provenance: Mapping[str, object]
) -> Path:
    """Write `heads`, whose provenance it is, into `folder`; the file's path."""
    from safetensors.numpy import save_file

    tensors: dict[str, Array] = {}
    for head in heads:
        output = served_head(head.source.name).output
        if head.source.kind == "relu_mlp":
            for number, (weight, bias) in enumerate(head.layers):
                tensors[f"{output}.layers.{number}.weight"] = weight.astype(np.float32)
                tensors[f"{output}.layers.{number}.bias"] = bias.astype(np.float32)
        else:
            folded, constant = fold(head)
            tensors[f"{output}.weight"] = folded
            tensors[f"{output}.bias"] = np.array([constant])
    path = folder / contract.HEADS_DATA
    metadata = {"format": contract.HEADS_DATA_FORMAT, **metadata_of(dict(provenance))}
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path, metadata
    )
    return path


def heads_data_scorer(path: Path) -> Score:
    """The heads of a file, evaluated in float64 as the module's docstring says."""
    from safetensors import safe_open
    from safetensors.numpy import load_file

    with safe_open(path, "numpy") as file:
        rows: list[Provenance] = json.loads(file.metadata()["provenance.heads"])
    tensors = {name: array.astype(np.float64) for name, array in load_file(path).items()}
    heads = [_evaluator(str(row["kind"]), str(row["output"]), tensors) for row in rows]
    return lambda embeddings: [head(embeddings.astype(np.float64)) for head in heads]


def _evaluator(
    kind: str, output: str, tensors: Mapping[str, Array]
) -> Callable[[Array], FloatArray]:
    """One head: (n, 768) -> (n, 1)."""
    if kind == "relu_mlp":
        count = sum(name.startswith(f"{output}.layers.") for name in tensors) // 2
        names = [f"{output}.layers.{number}" for number in range(count)]
        layers = [(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names]
    else:
        layers = [(tensors[f"{output}.weight"][None], tensors[f"{output}.bias"])]

    def evaluate(value: Array) -> FloatArray:
        if kind == "scaled_affine":
            value = value / np.linalg.norm(value, axis=1, keepdims=True)
        for weight, bias in layers[:-1]:
            value = np.maximum(value @ weight.T + bias, 0)
        weight, bias = layers[-1]
        scores: FloatArray = (value @ weight.T + bias).astype(np.float32)
        return scores

    return evaluate
