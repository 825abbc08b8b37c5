"""The `openvino` backend as Triton loads it: `backends/openvino/model.py`.

Triton starts one process per model instance, imports this file as top-level module, and calls
`initialize` once and `execute` once per batch. The work is in the sibling modules, imported from
the installed package.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb

from aesthetic_serve.backends.batching import answer
from aesthetic_serve.backends.openvino.engine import Engine
from aesthetic_serve.backends.openvino.options import options
from aesthetic_serve.backends.openvino.translation import (
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
    """One instance of one model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model, check that `config.pbtxt` describes it, and compile it."""
        import openvino  # not before the package above, which keeps it from reporting

        name, config = args["model_name"], json.loads(args["model_config"])
        self.batching = int(config.get("max_batch_size", 0)) > 0
        try:
            check_instances(args["model_instance_kind"])
            chosen = options(config)
            path = artifact(config, args["model_repository"], args["model_version"], DEFAULT_FILE)
            core = openvino.Core()
            try:
                model = core.read_model(path)
                inputs, outputs = model_tensors(model.inputs), model_tensors(model.outputs)
                check_signature(config, path.name, inputs, outputs, types=TYPES)
                self.engine = Engine(core, model, chosen, batching=self.batching)
            except RuntimeError as error:
                message = plain_message(error)
                raise ConfigError(f"openvino cannot open {path.name}: {message}") from None
        except ConfigError as error:
            raise pb.TritonModelException(f"unable to load model '{name}': {error}") from None
        if chosen.bf16 and self.engine.precision != "bf16":
            pb.Logger.log_warn(
                f"model '{name}' asks for bfloat16, which this CPU has not: it computes in "
                f"{self.engine.precision}, with the same scores or better ones, more slowly"
            )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request; a failure belongs to its own request."""
        unpacked = [unpack(request) for request in requests]
        results = answer(self.engine.run, unpacked, batching=self.batching, explain=explain)
        return [pack(result) for result in results]
