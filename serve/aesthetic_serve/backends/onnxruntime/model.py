"""The `onnxruntime` backend as Triton loads it: `backends/onnxruntime/model.py`.

Triton starts one process per model instance, imports this file as top-level module, and calls
`initialize` once and `execute` once per batch. The work is in the sibling modules, imported from
the installed package.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import triton_python_backend_utils as pb

from aesthetic_serve.backends.onnxruntime.batching import Failure, Request, answer, plain_message
from aesthetic_serve.backends.onnxruntime.options import run_options, session_options
from aesthetic_serve.backends.onnxruntime.signature import (
    ConfigError,
    artifact,
    check_instances,
    check_signature,
    model_tensors,
)


class TritonPythonModel:
    """One instance of one ONNX model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model and check that `config.pbtxt` describes it."""
        name, config = args["model_name"], json.loads(args["model_config"])
        try:
            check_instances(args["model_instance_kind"])
            path = artifact(config, args["model_repository"], args["model_version"])
            self.session = _open(path, session_options(config))
            inputs = model_tensors(self.session.get_inputs())
            outputs = model_tensors(self.session.get_outputs())
            check_signature(config, path.name, inputs, outputs)
        except ConfigError as error:
            raise pb.TritonModelException(f"unable to load model '{name}': {error}") from None
        self.batching = int(config.get("max_batch_size", 0)) > 0
        self.run_options = run_options(config)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request; a failure belongs to its own request."""
        unpacked = [self._unpack(request) for request in requests]
        return [_pack(result) for result in answer(self._run, unpacked, batching=self.batching)]

    def _unpack(self, request: Any) -> Request:
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        return Request(tensors, tuple(request.requested_output_names()))

    def _run(self, outputs: Sequence[str], feed: dict[str, Any]) -> list[Any]:
        result: list[Any] = self.session.run(list(outputs), feed, self.run_options)
        return result


def _open(path: Path, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConfigError(f"onnxruntime cannot open {path.name}: {plain_message(error)}") from None


def _pack(result: dict[str, Any] | Failure) -> Any:
    if isinstance(result, Failure):
        code = pb.TritonError.INVALID_ARG if result.callers_fault else pb.TritonError.INTERNAL
        return pb.InferenceResponse(error=pb.TritonError(result.message, code))
    return pb.InferenceResponse([pb.Tensor(name, array) for name, array in result.items()])
