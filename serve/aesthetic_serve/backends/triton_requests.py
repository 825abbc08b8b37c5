"""Triton's requests and responses against the backends' own. Imported within Triton's stub only."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb

from aesthetic_serve.backends.batching import Failure, Request, Result


def unpack(request: Any) -> Request:
    """The arrays are views of the request's shared memory, valid while it is being answered."""
    tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    return Request(tensors, tuple(request.requested_output_names()))


def pack(result: Result) -> Any:
    """A response, or an error that is that one request's."""
    if isinstance(result, Failure):
        code = pb.TritonError.INVALID_ARG if result.callers_fault else pb.TritonError.INTERNAL
        return pb.InferenceResponse(error=pb.TritonError(result.message, code))
    return pb.InferenceResponse([pb.Tensor(name, array) for name, array in result.items()])
