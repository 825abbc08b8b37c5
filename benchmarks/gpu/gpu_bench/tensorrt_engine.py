"""TensorRT: a strongly typed plan, built here for this GPU, one profile over all batch sizes.

TensorRT 11 is strongly typed only; 10 is asked to be. The RTX edition has the same interface.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_bench.engines import Call, Setting, SkipError
from gpu_bench.onnx_engine import INPUT, OUTPUT, onnx_file
from gpu_bench.shapes import EMBEDDING, IMAGE

MODULES = ("tensorrt", "tensorrt_bindings", "tensorrt_rtx_bindings")
WORKSPACE_BYTES = 8 * 2**30


class BuildError(RuntimeError):
    """TensorRT refused the graph; the message has all that it said."""


def tensorrt_module() -> Any:
    """The first that can be imported. Raises SkipError with every reason."""
    reasons = []
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:
            reasons.append(f"{name}: {error}")
    raise SkipError("TensorRT cannot be imported: " + "; ".join(reasons))


def tensorrt_call(setting: Setting) -> Call:
    """Build and load. Raises SkipError without TensorRT or CUDA, BuildError for a refused graph."""
    trt = tensorrt_module()
    if setting.device.type != "cuda":
        raise SkipError("TensorRT needs a CUDA device")
    logger = trt.Logger(trt.Logger.ERROR)
    plan = build(trt, logger, Path(onnx_file(setting)), setting.batches)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError("TensorRT cannot load the plan that it just built")
    return running(engine, setting.device)


def build(trt: Any, logger: Any, onnx: Path, batches: tuple[int, ...]) -> Any:
    """A serialized plan. Raises BuildError."""
    builder = trt.Builder(logger)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BuildError("; ".join(errors) or "the parser gave no reason")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    profile = builder.create_optimization_profile()
    sizes = (min(1, *batches), max(batches), max(batches))
    profile.set_shape(INPUT, *((size, IMAGE, IMAGE, 3) for size in sizes))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError("TensorRT built no plan; its log says why")
    return plan


def running(engine: Any, device: torch.device) -> Call:
    """Calls on torch's own stream, so that its events and TensorRT's work are in one order."""
    context = engine.create_execution_context()
    outputs: dict[int, Tensor] = {}
    stream = torch.cuda.Stream(device)
    torch.cuda.set_stream(stream)  # TensorRT synchronises needlessly on the default stream

    def call(pixels: Tensor) -> Tensor:
        out = outputs.get(len(pixels))
        if out is None:
            out = outputs[len(pixels)] = torch.empty(len(pixels), EMBEDDING, device=device)
        context.set_input_shape(INPUT, tuple(pixels.shape))
        context.set_tensor_address(INPUT, pixels.data_ptr())
        context.set_tensor_address(OUTPUT, out.data_ptr())
        if not context.execute_async_v3(stream.cuda_stream):
            raise BuildError(f"TensorRT could not run a batch of {len(pixels)}")
        return out

    return call
