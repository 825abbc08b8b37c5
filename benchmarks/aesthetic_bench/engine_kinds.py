"""The ways of running one tower, each loaded as its users load it: image positions to embeddings.

Every loader takes the worker's task and returns a function of positions among the run's images,
which gives embeddings (n, 768). Heavy imports are inside: each runs in a process of its own, and
importing is a part of loading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .engine import model_config, open_engine, open_openvino
from .tower_files import OPEN_CLIP, TRANSFORMERS

if TYPE_CHECKING:
    import torch
    from torch import nn

Embeddings = np.ndarray[Any, Any]
Embed = Callable[[list[int]], Embeddings]
Task = Mapping[str, Any]


def open_clip(task: Task) -> Embed:
    """torch eager, fp32."""
    return _by_tensors(_open_clip_module(task), task)


def open_clip_files(task: Task) -> Embed:
    """A metric library's loop: open, transform, encode and score one file after the other."""
    from aesthetic_export.towers import Tower

    from .torch_loop import score_function

    score = score_function(Tower(_open_clip_module(task), "", ""))
    files: list[str] = task["files"]
    return lambda positions: np.concatenate(
        [score([files[position]])[0].numpy() for position in positions]
    )


def transformers(task: Task) -> Embed:
    """transformers' CLIPVisionModelWithProjection, fp32."""
    return _by_tensors(_transformers_module(task), task)


def torch_bf16(task: Task) -> Embed:
    """The same in bfloat16, traced and frozen: oneDNN's matrix products, weights packed once."""
    import torch

    module = _transformers_module(task).bfloat16()
    example = _normalised(_pixels(task)[:1]).bfloat16()
    with torch.no_grad():
        trace: Any = torch.jit.trace  # untyped
        traced = trace(module, example, check_trace=False)
        return _by_tensors(torch.jit.freeze(traced), task, bf16=True)


def onnxruntime(task: Task) -> Embed:
    """The exported ONNX file in ONNX Runtime with nothing set."""
    import onnxruntime

    from aesthetic_client import contract

    session = onnxruntime.InferenceSession(task["onnx"], providers=["CPUExecutionProvider"])
    pixels = _pixels(task)
    name, outputs = contract.PIXELS.name, [contract.EMBEDDING.name]
    return lambda positions: session.run(outputs, {name: pixels[positions]})[0]


def openvino_fp32(task: Task) -> Embed:
    """The exported ONNX file in OpenVINO, fp32, run as the `openvino` backend runs its files."""
    run = open_openvino(Path(task["onnx"]), {"max_batch_size": task["max_batch"]})
    pixels = _pixels(task)
    return lambda positions: run(pixels[positions])


def profile(task: Task) -> Embed:
    """What Triton's backend runs for `clip_image` in a profile, without Triton."""
    folder = Path(task["model_folder"])
    run, _ = open_engine(folder, model_config(folder, task["config_file"]))
    pixels = _pixels(task)
    return lambda positions: run(pixels[positions])


LOADERS: dict[str, Callable[[Task], Embed]] = {
    loader.__name__: loader
    for loader in (
        *(open_clip, open_clip_files, transformers, torch_bf16),
        *(onnxruntime, openvino_fp32, profile),
    )
}


def _open_clip_module(task: Task) -> nn.Module:
    from safetensors.torch import load_file

    from aesthetic_export.towers import Shape, build_vision_transformer, load_weights

    module = build_vision_transformer(Shape(**task["shape"]))
    load_weights(module, load_file(Path(task["weights"], OPEN_CLIP)), OPEN_CLIP)
    return module


def _transformers_module(task: Task) -> nn.Module:
    from aesthetic_client.contract import EMBEDDING_DIM, IMAGE_SIZE
    from aesthetic_export.openclip import open_clip_transformer

    open_clip_transformer()  # mends the import of torchvision where that is needed
    from safetensors.torch import load_file
    from torch import nn
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    shape = task["shape"]
    config = CLIPVisionConfig(
        hidden_size=shape["width"],
        intermediate_size=shape["width"] * shape["mlp_ratio"],
        projection_dim=EMBEDDING_DIM,
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        image_size=IMAGE_SIZE,
        patch_size=shape["patch"],
        hidden_act="quick_gelu",
    )
    model = CLIPVisionModelWithProjection(config)
    model.load_state_dict(load_file(Path(task["weights"], TRANSFORMERS)))

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            embedding: torch.Tensor = self.model(pixel_values=pixels).image_embeds
            return embedding

    return Embedding().eval().requires_grad_(False)


def _by_tensors(module: Any, task: Task, *, bf16: bool = False) -> Embed:
    import torch

    pixels = _pixels(task)

    def embed(positions: list[int]) -> Embeddings:
        values = _normalised(pixels[positions])
        with torch.no_grad():
            found: Embeddings = module(values.bfloat16() if bf16 else values).float().numpy()
            return found

    return embed


def _normalised(pixels: Any) -> torch.Tensor:
    """uint8 (n, 224, 224, 3) to what a CLIP tower takes, fp32 (n, 3, 224, 224)."""
    import torch

    from aesthetic_client.pixels import CLIP_MEAN, CLIP_STD

    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(three).view(3, 1, 1) for three in (CLIP_MEAN, CLIP_STD))
    return values.sub_(mean).div_(std).contiguous()


def _pixels(task: Task) -> Any:
    return np.load(task["pixels"])
