"""Ways to run the tower, each a function that makes a call (pixels on the device) -> embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gpu_bench.tower import Tower, clip_image

Call = Callable[[Tensor], Tensor]


class SkipError(Exception):
    """This machine cannot run the engine; the message names what is missing."""


@dataclass(frozen=True)
class Setting:
    """What an engine is made from. `onnx` is the exporter's fp16 file; None: made here."""

    tower: Tower
    device: torch.device
    batches: tuple[int, ...]
    work: Path
    onnx: Path | None = None
    compile_backend: str = "inductor"


def torch_fp32(setting: Setting) -> Call:
    """The reference: fp32 without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return clip_image(setting.tower, torch.float32, setting.device)


def torch_eager(setting: Setting) -> Call:
    """fp16 as most people write it."""
    return clip_image(setting.tower, torch.float16, setting.device)


def torch_compile(setting: Setting) -> Call:
    """The same, compiled block by block: 24 equal blocks share one compilation a batch size."""
    module = clip_image(setting.tower, torch.float16, setting.device)
    for block in module.tower.transformer.resblocks:
        block.compile(backend=setting.compile_backend, dynamic=False)
    return module


def onnxruntime_fp16(setting: Setting) -> Call:
    from gpu_bench.onnx_engine import onnxruntime_call

    return onnxruntime_call(setting)


def tensorrt_fp16(setting: Setting) -> Call:
    from gpu_bench.tensorrt_engine import tensorrt_call

    return tensorrt_call(setting)


ENGINES: dict[str, Callable[[Setting], Call]] = {
    "torch_eager_fp16": torch_eager,
    "torch_compile_fp16": torch_compile,
    "onnxruntime_fp16": onnxruntime_fp16,
    "tensorrt_fp16": tensorrt_fp16,
}
