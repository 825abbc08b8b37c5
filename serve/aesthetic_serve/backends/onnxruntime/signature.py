"""Does `config.pbtxt` describe the ONNX file beside it? Checked at load, as the C++ backend does.

Every message names both sides: what the config says and what the model has. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_FILE = "model.onnx"
ANY = -1  # a dimension that may take any size

# Triton's names on the left, ONNX Runtime's on the right. numpy has no bfloat16, so neither do we.
ONNX_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}
TRITON_TYPES = {onnx: triton for triton, onnx in ONNX_TYPES.items()}


class ConfigError(Exception):
    """The config asks for what this backend or this model cannot do."""


@dataclass(frozen=True)
class ModelTensor:
    """As the ONNX file declares it; `dims` with the batch axis, -1 where free."""

    onnx_type: str
    dims: tuple[int, ...]


def model_tensors(arguments: Iterable[Any]) -> dict[str, ModelTensor]:
    """By name, from `session.get_inputs()` or `get_outputs()`; symbolic sizes become -1."""
    return {
        argument.name: ModelTensor(
            argument.type, tuple(d if isinstance(d, int) else ANY for d in argument.shape)
        )
        for argument in arguments
    }


def artifact(config: Mapping[str, Any], model_folder: str, version: str) -> Path:
    """The ONNX file of that version. Raises ConfigError where it is missing."""
    name = config.get("default_model_filename") or DEFAULT_FILE
    path = Path(model_folder, version, name)
    if path.is_dir():
        path = path / DEFAULT_FILE
    if not path.is_file():
        raise ConfigError(f"there is no {version}/{name} in the model's folder")
    return path


def check_instances(kind: str) -> None:
    """Raises ConfigError for an instance that wants a GPU."""
    if kind == "GPU":
        raise ConfigError(
            "config.pbtxt asks for KIND_GPU; this backend runs on the CPU. "
            "Use KIND_CPU, or leave `kind` out so that one config serves both"
        )


def check_signature(
    config: Mapping[str, Any],
    file: str,
    inputs: Mapping[str, ModelTensor],
    outputs: Mapping[str, ModelTensor],
) -> None:
    """Raises ConfigError unless names, types, dims and batching of both sides fit."""
    batching = int(config.get("max_batch_size", 0)) > 0
    wanted = config.get("input") or []
    given = {tensor["name"] for tensor in wanted}
    if missing := sorted(set(inputs) - given):
        raise ConfigError(
            f"config.pbtxt has inputs {_list(given)}, {file} has {_list(inputs)}: "
            f"{_list(missing)} would stay unset"
        )
    for tensor in wanted:
        if batching and tensor.get("optional"):
            raise ConfigError(
                f"input '{tensor['name']}' is optional in config.pbtxt: not with max_batch_size > 0"
            )
        _check_tensor("input", tensor, file, inputs, batching=batching)
    for tensor in config.get("output") or []:
        _check_tensor("output", tensor, file, outputs, batching=batching)


def _check_tensor(
    side: str,
    tensor: Mapping[str, Any],
    file: str,
    model: Mapping[str, ModelTensor],
    *,
    batching: bool,
) -> None:
    name, wanted_type = tensor["name"], tensor["data_type"]
    if name not in model:
        raise ConfigError(f"config.pbtxt has {side} '{name}', {file} has {_list(model)}")
    found = model[name]
    if wanted_type not in ONNX_TYPES:
        raise ConfigError(f"{side} '{name}': config.pbtxt says {wanted_type}, not supported here")
    if ONNX_TYPES[wanted_type] != found.onnx_type:
        found_type = TRITON_TYPES.get(found.onnx_type, found.onnx_type)
        raise ConfigError(
            f"{side} '{name}': config.pbtxt says {wanted_type}, {file} has {found_type}"
        )
    _check_dims(f"{side} '{name}'", tensor, file, found.dims, side=side, batching=batching)


def _check_dims(
    what: str,
    tensor: Mapping[str, Any],
    file: str,
    found: tuple[int, ...],
    *,
    side: str,
    batching: bool,
) -> None:
    reshape = tensor.get("reshape")
    listed = reshape.get("shape", []) if reshape else tensor.get("dims", [])
    wanted = tuple(int(dim) for dim in listed)  # 64-bit integers may come as JSON strings
    if batching:
        if not found or found[0] != ANY:
            raise ConfigError(
                f"{what}: config.pbtxt has max_batch_size > 0, but the first axis of {file}'s "
                f"{_shape(found)} is fixed; a batch needs it free (-1)"
            )
        wanted = (ANY, *wanted)
    elif not found and all(dim == 1 for dim in wanted):
        return  # a scalar: Triton has no rank 0, so configs write dims [1]
    # An output's size must be said as it is; an input may be narrower than the model allows.
    fits = len(wanted) == len(found) and all(
        w == f or (side == "input" and f == ANY) for w, f in zip(wanted, found, strict=True)
    )
    if not fits:
        batch = " with the batch axis" if batching else ""
        raise ConfigError(
            f"{what}: config.pbtxt says {_shape(wanted)}{batch}, {file} has {_shape(found)}"
        )


def _shape(dims: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"
