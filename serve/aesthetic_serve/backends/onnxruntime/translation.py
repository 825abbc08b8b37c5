"""What ONNX Runtime declares and reports, in the backends' own terms."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from aesthetic_serve.backends.batching import Failure
from aesthetic_serve.backends.messages import without_private
from aesthetic_serve.backends.signature import ANY, NUMBERS, STRING, ModelTensor

DEFAULT_FILE = "model.onnx"
TYPES = NUMBERS | {STRING}

# ONNX Runtime's names on the left.
_TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}

# Its messages begin with "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ".
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : ([A-Z_]+) : ")


def model_tensors(arguments: Iterable[Any]) -> dict[str, ModelTensor]:
    """By name, from `session.get_inputs()` or `get_outputs()`; symbolic sizes become -1."""
    return {
        argument.name: ModelTensor(
            _TRITON_TYPES.get(argument.type, argument.type),
            tuple(d if isinstance(d, int) else ANY for d in argument.shape),
        )
        for argument in arguments
    }


def plain_message(error: Exception) -> str:
    """The first line of an error's message, without the places that are nobody's business."""
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    return without_private(_PREFIX.sub("", first_line))


def explain(error: Exception) -> Failure:
    """Why a run failed."""
    code = _PREFIX.match(str(error).strip())
    at_fault = bool(code and code[1] == "INVALID_ARGUMENT") or isinstance(error, UnicodeError)
    return Failure(f"onnxruntime: {plain_message(error)}", callers_fault=at_fault)
