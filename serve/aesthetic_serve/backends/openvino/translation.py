"""What OpenVINO declares and reports, in the backends' own terms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aesthetic_serve.backends.batching import Failure
from aesthetic_serve.backends.messages import without_private
from aesthetic_serve.backends.signature import ANY, NUMBERS, ModelTensor

DEFAULT_FILE = "model.xml"
TYPES = NUMBERS - {"TYPE_FP64"}  # as the C++ backend

# OpenVINO's names on the left.
_TRITON_TYPES = {
    "boolean": "TYPE_BOOL",
    "u8": "TYPE_UINT8",
    "u16": "TYPE_UINT16",
    "u32": "TYPE_UINT32",
    "u64": "TYPE_UINT64",
    "i8": "TYPE_INT8",
    "i16": "TYPE_INT16",
    "i32": "TYPE_INT32",
    "i64": "TYPE_INT64",
    "f16": "TYPE_FP16",
    "f32": "TYPE_FP32",
}
# Lines that say where in OpenVINO's source something failed, not what.
_PLACES = ("Exception from ", "Check ", "While validating node ")


def model_tensors(ports: Iterable[Any]) -> dict[str, ModelTensor]:
    """By name, from `model.inputs` or `model.outputs`; free sizes become -1.

    A port without a name cannot be asked for and is left out.
    """
    return {
        port.get_any_name(): ModelTensor(_type_of(port), _dims_of(port))
        for port in ports
        if port.get_names()
    }


def plain_message(error: Exception) -> str:
    """The last line, which says what is wrong, without the places that are nobody's business."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_PLACES)] or lines
    return without_private(telling[-1] if telling else type(error).__name__)


def explain(error: Exception) -> Failure:
    """Why a run failed. OpenVINO does not say whose fault it is."""
    return Failure(f"openvino: {plain_message(error)}", callers_fault=False)


def _type_of(port: Any) -> str:
    name: str = port.get_element_type().get_type_name()
    return _TRITON_TYPES.get(name, name)


def _dims_of(port: Any) -> tuple[int, ...]:
    return tuple(
        ANY if dim.is_dynamic else int(dim.get_length()) for dim in port.get_partial_shape()
    )
