"""ONNX from a torch module, by the contract: names, dtypes, dims and a batch that is dynamic."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aesthetic_client.contract import DEFAULT_PROFILE, DType, Model, Tensor
from aesthetic_export.towers import QUICK_GELU_FACTOR, ActivationError

if TYPE_CHECKING:
    import torch
    from torch import nn

OPSET = 18
ARTIFACT = DEFAULT_PROFILE.artifact  # the file name that Triton's onnxruntime backend expects
BATCH_AXIS = "batch"
EXAMPLE_BATCH = 2  # with 1 the exporter takes the batch for a constant, silently

_ONNX_DTYPES: dict[DType, int] = {"FP32": 1, "UINT8": 2, "INT64": 7}  # numbers of onnx.TensorProto
_FACTORS = tuple(float(dtype(QUICK_GELU_FACTOR)) for dtype in (np.float32, np.float16))
_OTHER_ACTIVATIONS = frozenset({"Erf", "Gelu", "Tanh", "FastGelu", "BiasGelu"})


class ExportError(RuntimeError):
    """The exporter's result is not what the contract asks for."""


def onnx_from_module(
    module: nn.Module,
    model: Model,
    folder: Path,
    *,
    artifact: str = ARTIFACT,
    metadata: Mapping[str, str] | None = None,
    external_data: bool = False,
) -> tuple[Path, ...]:
    """Write `artifact` (with `external_data` also `ARTIFACT.data`) for `module` into `folder`.

    The two travel together: the first names the second. `metadata` goes into the
    graph's metadata_props. Returns the files written.
    Raises ExportError when inputs or outputs differ from the contract's `model`.
    """
    import torch

    example = tuple(_example(tensor) for tensor in model.inputs)
    path = folder / artifact
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in model.inputs],
            output_names=[tensor.name for tensor in model.outputs],
            dynamic_shapes=tuple({0: BATCH_AXIS} for _ in example),
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(metadata or {})
        program.save(path, external_data=external_data)
    check_interface(path, model)
    return (path, folder / data_name(artifact)) if external_data else (path,)


def data_name(artifact: str) -> str:
    """The file of an ONNX file's weights, where they lie outside of it."""
    return f"{artifact}.data"


def check_interface(path: Path, model: Model) -> None:
    """Compare the file's inputs and outputs with the contract's. Raises ExportError."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    for found, expected in ((graph.input, model.inputs), (graph.output, model.outputs)):
        here = [_described(value) for value in found]
        there = [
            (tensor.name, _ONNX_DTYPES[tensor.dtype], (BATCH_AXIS, *tensor.dims))
            for tensor in expected
        ]
        if here != there:
            raise ExportError(f"{model.name}: the ONNX file has {here}, the contract {there}")


def check_quick_gelu_graph(path: Path, layers: int) -> None:
    """Find exactly `layers` times x * sigmoid(1.702 x) in the graph, and no other activation.

    Raises ActivationError.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    others = sorted({node.op_type for node in nodes} & _OTHER_ACTIVATIONS)
    if others:
        raise ActivationError(f"the exported tower computes {', '.join(others)}: not QuickGELU")
    constants = _small_constants(model)
    producers = {output: node for node in nodes for output in node.output}
    consumers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            consumers.setdefault(name, []).append(node)

    def quick(sigmoid: Any) -> bool:
        scale = producers.get(sigmoid.input[0])
        if scale is None or scale.op_type != "Mul":
            return False
        values = [name for name in scale.input if name not in constants]
        factors = [constants[name] for name in scale.input if name in constants]
        close = len(factors) == 1 and factors[0] in _FACTORS
        gated = consumers.get(sigmoid.output[0], [])
        return close and any(
            node.op_type == "Mul" and set(node.input) == {values[0], sigmoid.output[0]}
            for node in gated
        )

    found = sum(quick(node) for node in nodes if node.op_type == "Sigmoid")
    if found != layers:
        raise ActivationError(
            f"the exported tower computes QuickGELU {found} times, but has {layers} layers"
        )


def check_half_graph(path: Path) -> None:
    """Every matrix product and convolution multiplies fp16, every normalisation is in fp32.

    Raises ExportError that names the first node which does otherwise.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False))
    graph = model.graph
    types = {item.name: item.data_type for item in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    expected = {
        **dict.fromkeys(("MatMul", "Gemm", "Conv"), onnx.TensorProto.FLOAT16),
        **dict.fromkeys(("LayerNormalization", "ReduceL2"), onnx.TensorProto.FLOAT),
    }
    for node in graph.node:
        if (wanted := expected.get(node.op_type)) is None:
            continue
        operands = node.input[:1] if node.op_type == "ReduceL2" else node.input  # then its axes
        found = {types.get(name) for name in (*operands, *node.output)}
        if found != {wanted}:
            name = onnx.TensorProto.DataType.Name
            here = ", ".join(sorted(name(code) if code else "unknown" for code in found))
            raise ExportError(f"{node.op_type} {node.name} is of {here}, not {name(wanted)}")


def _small_constants(model: Any) -> dict[str, float]:
    """Every scalar of the graph by name: initializers and Constant nodes."""
    from onnx import numpy_helper

    tensors = {
        item.name: item
        for item in model.graph.initializer
        if int(np.prod(item.dims)) == 1 and item.data_location == 0  # 0: within this file
    }
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    arrays = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    return {name: float(array.reshape(())) for name, array in arrays.items() if array.size == 1}


def _described(value: Any) -> tuple[str, int, tuple[str | int, ...]]:
    tensor = value.type.tensor_type
    dims = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return value.name, tensor.elem_type, dims


def _example(tensor: Tensor) -> torch.Tensor:
    import torch

    dtypes = {"UINT8": torch.uint8, "INT64": torch.int64, "FP32": torch.float32}
    dtype = dtypes[tensor.dtype]
    return torch.ones((EXAMPLE_BATCH, *tensor.dims), dtype=dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Attention without its fused inference path, which does not export; no exporter chatter."""
    import torch

    fastpath = torch.backends.mha.get_fastpath_enabled()
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # The exporter's and PyTorch's own deprecations: ours to know when they become errors.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            # All inputs share the batch axis, which is what is meant.
            warnings.filterwarnings("ignore", "# The axis name: batch will not be used")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
