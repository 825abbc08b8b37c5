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

from aesthetic_serve.backends.batching import answer
from aesthetic_serve.backends.onnxruntime.options import run_options, session_options
from aesthetic_serve.backends.onnxruntime.translation import (
    DEFAULT_FILE,
    TYPES,
    explain,
    model_tensors,
    plain_message,
)
from aesthetic_serve.backends.signature import (
    ConfigError,
    artifact,
    check_instances,
    check_signature,
)
from aesthetic_serve.backends.triton_requests import pack, unpack


class TritonPythonModel:
    """One instance of one ONNX model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model and check that `config.pbtxt` describes it."""
        name, config = args["model_name"], json.loads(args["model_config"])
        try:
            check_instances(args["model_instance_kind"])
            path = artifact(config, args["model_repository"], args["model_version"], DEFAULT_FILE)
            self.session = _open(path, session_options(config))
            inputs = model_tensors(self.session.get_inputs())
            outputs = model_tensors(self.session.get_outputs())
            check_signature(config, path.name, inputs, outputs, types=TYPES)
        except ConfigError as error:
            raise pb.TritonModelException(f"unable to load model '{name}': {error}") from None
        self.batching = int(config.get("max_batch_size", 0)) > 0
        self.run_options = run_options(config)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request; a failure belongs to its own request."""
        unpacked = [unpack(request) for request in requests]
        results = answer(self._run, unpacked, batching=self.batching, explain=explain)
        return [pack(result) for result in results]

    def _run(self, outputs: Sequence[str], feed: dict[str, Any]) -> list[Any]:
        result: list[Any] = self.session.run(list(outputs), feed, self.run_options)
        return result


def _open(path: Path, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConfigError(f"onnxruntime cannot open {path.name}: {plain_message(error)}") from None
