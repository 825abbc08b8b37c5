"""Run a plan of the image tower on the GPU, to compare it with its ONNX file."""

from __future__ import annotations

from typing import Any

import numpy as np

from aesthetic_client.contract import CLIP_IMAGE, Model
from aesthetic_export.cuda import Gpu
from aesthetic_export.parity import FloatArray, Pixels
from aesthetic_export.tensorrt_builder import PlanBuildError, make_logger


class PlanRunner:
    """A deserialized plan with memory for `max_batch` images. Embeds up to as many at once."""

    def __init__(
        self, trt: Any, plan: Any, gpu: Gpu, *, max_batch: int, model: Model = CLIP_IMAGE
    ) -> None:
        """Raises PlanBuildError when the plan does not load where it was built."""
        (source,), (result,) = model.inputs, model.outputs
        self._gpu, self._input, self._output = gpu, source, result
        self.max_batch = max_batch
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)  # each outlives what it made
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise PlanBuildError(f"the plan does not load: {self._logger.reasons()}")
        self._context = self._engine.create_execution_context()
        self._pixels = gpu.allocate(max_batch * int(np.prod(source.dims)))
        self._embeddings = gpu.allocate(max_batch * int(np.prod(result.dims)) * 4)

    def embed(self, pixels: Pixels) -> FloatArray:
        """(n, 224, 224, 3) uint8 -> (n, 768) fp32. Raises PlanBuildError when it does not run."""
        pixels = np.ascontiguousarray(pixels)
        found = np.empty((len(pixels), *self._output.dims), np.float32)
        context, gpu = self._context, self._gpu
        gpu.upload(pixels, self._pixels)
        ready = (
            context.set_input_shape(self._input.name, pixels.shape)
            and context.set_tensor_address(self._input.name, self._pixels)
            and context.set_tensor_address(self._output.name, self._embeddings)
            and context.execute_async_v3(gpu.stream)
        )
        if not ready:
            raise PlanBuildError(f"the plan does not run: {self._logger.reasons()}")
        gpu.synchronize()
        gpu.download(self._embeddings, found)
        return found
