"""Run a plan on the GPU, to compare it with its ONNX file."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aesthetic_client.contract import Model, Tensor
from aesthetic_export.cuda import Gpu
from aesthetic_export.measures import FloatArray
from aesthetic_export.tensorrt_builder import PlanBuildError, make_logger


class PlanRunner:
    """A deserialized plan of `model` with memory for `max_batch` items. Runs up to as many."""

    def __init__(self, trt: Any, plan: Any, gpu: Gpu, *, model: Model, max_batch: int) -> None:
        """Raises PlanBuildError when the plan does not load where it was built."""
        self._gpu = gpu
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)  # each outlives what it made
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise PlanBuildError(f"the plan does not load: {self._logger.reasons()}")
        self._context = self._engine.create_execution_context()
        self._given, self._results = (
            {tensor: gpu.allocate(max_batch * _item_bytes(tensor)) for tensor in tensors}
            for tensors in (model.inputs, model.outputs)
        )

    def run(self, *inputs: npt.NDArray[np.generic]) -> list[FloatArray]:
        """(n, *dims) for each input -> (n, *dims) fp32 for each output. Raises PlanBuildError."""
        context, gpu = self._context, self._gpu
        shapes = {}
        for (tensor, address), items in zip(self._given.items(), inputs, strict=True):
            gpu.upload(np.ascontiguousarray(items), address)
            shapes[tensor.name] = items.shape
        ready = (
            all(context.set_input_shape(name, shape) for name, shape in shapes.items())
            and all(
                context.set_tensor_address(tensor.name, address)
                for tensor, address in (*self._given.items(), *self._results.items())
            )
            and context.execute_async_v3(gpu.stream)
        )
        if not ready:
            raise PlanBuildError(f"the plan does not run: {self._logger.reasons()}")
        gpu.synchronize()
        found = []
        for tensor, address in self._results.items():
            found.append(np.empty((len(inputs[0]), *tensor.dims), np.float32))
            gpu.download(address, found[-1])
        return found


def _item_bytes(tensor: Tensor) -> int:
    """Of one item; what is not UINT8 is FP32, every output too."""
    return int(np.prod(tensor.dims)) * (1 if tensor.dtype == "UINT8" else 4)
