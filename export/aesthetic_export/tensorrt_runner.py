"""Run a plan on the GPU, to compare it with its ONNX file."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aesthetic_client.contract import Model
from aesthetic_export.cuda import Gpu
from aesthetic_export.measures import FloatArray
from aesthetic_export.tensorrt_builder import PlanBuildError, make_logger


class PlanRunner:
    """A deserialized plan of `model` with memory for `max_batch` items. Runs up to as many."""

    def __init__(self, trt: Any, plan: Any, gpu: Gpu, *, model: Model, max_batch: int) -> None:
        """Raises PlanBuildError when the plan does not load where it was built."""
        (self._input,), self._gpu = model.inputs, gpu
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)  # each outlives what it made
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise PlanBuildError(f"the plan does not load: {self._logger.reasons()}")
        self._context = self._engine.create_execution_context()
        item_bytes = int(np.prod(self._input.dims)) * (1 if self._input.dtype == "UINT8" else 4)
        self._given = gpu.allocate(max_batch * item_bytes)
        self._results = {  # every output is FP32
            tensor: gpu.allocate(max_batch * int(np.prod(tensor.dims)) * 4)
            for tensor in model.outputs
        }

    def run(self, items: npt.NDArray[np.generic]) -> list[FloatArray]:
        """(n, *input dims) -> (n, *dims) fp32 for each output. Raises PlanBuildError."""
        items = np.ascontiguousarray(items)
        context, gpu = self._context, self._gpu
        gpu.upload(items, self._given)
        ready = (
            context.set_input_shape(self._input.name, items.shape)
            and context.set_tensor_address(self._input.name, self._given)
            and all(
                context.set_tensor_address(tensor.name, address)
                for tensor, address in self._results.items()
            )
            and context.execute_async_v3(gpu.stream)
        )
        if not ready:
            raise PlanBuildError(f"the plan does not run: {self._logger.reasons()}")
        gpu.synchronize()
        found = []
        for tensor, address in self._results.items():
            found.append(np.empty((len(items), *tensor.dims), np.float32))
            gpu.download(address, found[-1])
        return found
