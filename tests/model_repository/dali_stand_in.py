"""Stands in for Triton's DALI backend, which no wheel carries: `1/model.py` beside `dali.py`.

Like the backend, it decodes what Triton has batched in one go, and fails all of it when one file
is broken.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.run = {"dali": dali, "pillow": pillow}[parameters["decoder"]["string_value"]]

    def execute(self, requests):
        arrays = [
            pb_utils.get_input_tensor_by_name(each, "encoded").as_numpy() for each in requests
        ]
        files = [row for array in arrays for row in array]
        try:
            pixels = iter(self.run(files))
        except Exception as error:
            message = f"DALI error: {type(error).__name__}"
            # One error object each: shared between responses, it brings the server down.
            return [
                pb_utils.InferenceResponse(error=pb_utils.TritonError(message)) for _ in requests
            ]
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("pixels", np.stack([next(pixels) for _ in array]))]
            )
            for array in arrays
        ]


def dali(files):
    import dali as definition  # the sibling

    pipeline = definition.pixels(
        on_gpu=False, device_id=None, num_threads=1, prefetch_queue_depth=1
    )
    pipeline.build()
    pipeline.feed_input(definition.INPUT, files)
    (pixels,) = pipeline.run()
    return [np.array(pixels.at(index)) for index in range(len(files))]


def pillow(files):
    from aesthetic_client.pixels import prepare_pixels

    return [prepare_pixels(file.tobytes()) for file in files]
