"""Triton adapter of `aesthetic_client.pixels`: unpack, prepare, pack."""

import ctypes
import json

import numpy as np
import triton_python_backend_utils as pb_utils

from aesthetic_client.contract import IMAGE, PIXELS, PROVENANCE_PREFIX
from aesthetic_client.errors import ImageError
from aesthetic_client.pixels import PREPROCESSING_ID, PixelOptions, prepare_pixels, warm_up

STATED_ID = f"{PROVENANCE_PREFIX}preprocessing"
# glibc's mallopt. Decoded images are some megabytes each: left to itself glibc hands that memory
# back after every image and takes it anew, 1,800 page faults and 2 to 5 ms for 1.8 megapixels.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 32 << 20  # bytes; glibc takes no more
KEPT = 64 << 20  # bytes of free memory, at most


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        stated = {key: value["string_value"] for key, value in parameters.items()}
        self.options = PixelOptions.from_parameters(stated)
        keep_freed_memory()
        expected = self.options.preprocessing_id
        if stated.get(STATED_ID, PREPROCESSING_ID) != expected:
            raise pb_utils.TritonModelException(
                f"preprocess: in mode {self.options.mode} the parameter {STATED_ID} must be "
                f"{expected}, so that clients see which pixels were scored"
            )
        unused = warm_up()  # here, not within the first request
        if unused:
            pb_utils.Logger.log_warn(
                f"preprocess: Pillow resizes large images, slower than numba's kernels ({unused})"
            )

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        # Each request answers for itself: an exception here would fail its neighbours in the batch.
        try:
            images = pb_utils.get_input_tensor_by_name(request, IMAGE.name).as_numpy()
            pixels = [prepare_pixels(data, self.options) for data in images.reshape(-1)]
        except ImageError as error:
            return failure(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            return failure(
                f"preprocess failed: {type(error).__name__}", pb_utils.TritonError.INTERNAL
            )
        return pb_utils.InferenceResponse([pb_utils.Tensor(PIXELS.name, np.stack(pixels))])


def keep_freed_memory():
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def failure(message, code):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
