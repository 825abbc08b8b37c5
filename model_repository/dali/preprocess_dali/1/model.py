"""Triton adapter of `dali_routing`: unpack, ask `dali_decode` or `preprocess`, pack."""

import asyncio
import json

import numpy as np
import triton_python_backend_utils as pb_utils
from dali_routing import StepError, pixels_of

from aesthetic_client.contract import DALI_DECODE, ENCODED, IMAGE, PIXELS, PREPROCESS
from aesthetic_client.pixels import PixelOptions


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.options = PixelOptions.from_parameters(
            {key: value["string_value"] for key, value in parameters.items()}
        )

    async def execute(self, requests):
        return await asyncio.gather(*(self.answer(request) for request in requests))

    async def answer(self, request):
        # Each request answers for itself: an exception here would fail its neighbours in the batch.
        try:
            images = pb_utils.get_input_tensor_by_name(request, IMAGE.name).as_numpy()
            ways = (pixels_of(data, self.options, decode, prepare) for data in images.reshape(-1))
            pixels = await asyncio.gather(*ways, return_exceptions=True)
            for failed in pixels:
                if isinstance(failed, Exception):
                    raise failed
        except StepError as error:
            return failure(*error.args)
        except Exception as error:
            return failure(
                f"preprocess_dali failed: {type(error).__name__}", pb_utils.TritonError.INTERNAL
            )
        return pb_utils.InferenceResponse([pb_utils.Tensor(PIXELS.name, np.stack(pixels))])


async def decode(data):
    return await ask(DALI_DECODE, ENCODED, np.frombuffer(data, np.uint8)[None])


async def prepare(data):
    return await ask(PREPROCESS, IMAGE, np.array([[data]], dtype=object))


async def ask(model, tensor, array):
    """The pixels of a batch of one. Raises StepError with the model's own error."""
    response = await pb_utils.InferenceRequest(
        model_name=model.name,
        requested_output_names=[PIXELS.name],
        inputs=[pb_utils.Tensor(tensor.name, array)],
        # 150 KB that the next step copies in one batch; on the GPU they could not be stacked here.
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    ).async_exec()
    if response.has_error():
        error = response.error()
        raise StepError(error.message(), error.code())
    return pb_utils.get_output_tensor_by_name(response, PIXELS.name).as_numpy()[0]


def failure(message, code):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
