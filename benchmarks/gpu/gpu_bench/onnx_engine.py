"""ONNX Runtime on CUDA: inputs and outputs stay on the GPU, no copy through the host."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_bench.engines import Call, Setting, SkipError
from gpu_bench.shapes import EMBEDDING, IMAGE
from gpu_bench.tower import clip_image

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
OPSET = 18
INPUT, OUTPUT = "pixels", "embedding"


def onnxruntime_call(setting: Setting) -> Call:
    """Raises SkipError without onnxruntime, its provider for the device, or an ONNX file."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise SkipError(f"onnxruntime cannot be imported: {error}") from None
    provider = PROVIDERS[setting.device.type]
    if provider not in ort.get_available_providers():
        raise SkipError(f"onnxruntime {ort.__version__} has no {provider}")
    if setting.device.type == "cuda" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # the CUDA and cuDNN libraries that torch brought
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(onnx_file(setting), options, providers=[provider])
    if provider not in session.get_providers():  # it falls back to the CPU and only logs it
        raise SkipError(f"onnxruntime {ort.__version__} could not start {provider}")
    return _bound(session, setting.device)


def onnx_file(setting: Setting) -> str:
    """The given file, else one exported here. Raises SkipError where that needs what is missing."""
    if setting.onnx is not None:
        return str(setting.onnx)
    path = setting.work / "clip_image.fp16.onnx"
    if not path.exists():
        export(setting, path)
    return str(path)


def export(setting: Setting, path: Path) -> None:
    """The fp16 tower as ONNX with a dynamic batch, made on the CPU. Raises SkipError."""
    module = clip_image(setting.tower, torch.float16, torch.device("cpu"))
    example = torch.zeros(2, IMAGE, IMAGE, 3, dtype=torch.uint8)  # 2: a batch of 1 becomes static
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with (
            torch.no_grad(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: "batch"},),
                verbose=False,
            )
            assert program is not None
            program.save(path)
    except ImportError as error:  # onnx, onnxscript
        raise SkipError(f"no --onnx, and {error.name or error} is missing to make one") from None


def _bound(session: Any, device: torch.device) -> Call:
    import numpy as np

    binding = session.io_binding()
    index = device.index or 0
    outputs: dict[int, Tensor] = {}

    def call(pixels: Tensor) -> Tensor:
        out = outputs.get(len(pixels))
        if out is None:
            out = outputs[len(pixels)] = torch.empty(len(pixels), EMBEDDING, device=device)
        # run_with_iobinding waits for its own stream, but not for torch's.
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        binding.bind_input(
            INPUT, device.type, index, np.uint8, tuple(pixels.shape), pixels.data_ptr()
        )
        binding.bind_output(
            OUTPUT, device.type, index, np.float32, tuple(out.shape), out.data_ptr()
        )
        session.run_with_iobinding(binding)
        return out

    return call
