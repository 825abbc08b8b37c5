"""Does `config.pbtxt` describe the model beside it? Checked at load, as the C++ backends do.

Every message names both sides: what the config says and what the model has. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANY = -1  # a dimension that may take any size

# Of Triton's types. numpy has no bfloat16, so neither do we.
NUMBERS = frozenset(
    f"TYPE_{name}"
    for name in (
        *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "FP32", "FP64"),
    )
)
STRING = "TYPE_STRING"


class ConfigError(Exception):
    """The config asks for what this backend or this model cannot do."""


@dataclass(frozen=True)
class ModelTensor:
    """As the model's file declares it; `dims` with the batch axis, -1 where free.

    `type` is Triton's name, or the engine's own for a type that Triton has not.
    """

    type: str
    dims: tuple[int, ...]


def artifact(config: Mapping[str, Any], model_folder: str, version: str, usual: str) -> Path:
    """The model's file of that version, `usual` where the config names none.

    Raises ConfigError where it is missing.
    """
    name = config.get("default_model_filename") or usual
    path = Path(model_folder, version, name)
    if path.is_dir():
        path = path / usual
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
    *,
    types: frozenset[str] = NUMBERS,
) -> None:
    """Raises ConfigError unless names, types, dims and batching of both sides fit.

    `types` are those of Triton's that the engine takes.
    """
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
        _check_tensor("input", tensor, file, inputs, types, batching=batching)
    for tensor in config.get("output") or []:
        _check_tensor("output", tensor, file, outputs, types, batching=batching)


def _check_tensor(
    side: str,
    tensor: Mapping[str, Any],
    file: str,
    model: Mapping[str, ModelTensor],
    types: frozenset[str],
    *,
    batching: bool,
) -> None:
    name, wanted_type = tensor["name"], tensor["data_type"]
    if name not in model:
        raise ConfigError(f"config.pbtxt has {side} '{name}', {file} has {_list(model)}")
    found = model[name]
    if wanted_type not in types:
        raise ConfigError(f"{side} '{name}': config.pbtxt says {wanted_type}, not supported here")
    if wanted_type != found.type:
        raise ConfigError(
            f"{side} '{name}': config.pbtxt says {wanted_type}, {file} has {found.type}"
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
