"""The one place that imports open_clip, and what that needs on a CPU-only PyTorch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_defined: list[Any] = []


def open_clip_transformer() -> ModuleType:
    """The module `open_clip.transformer`.

    torchvision's wheel is built against a CUDA PyTorch. On a CPU PyTorch its compiled operators do
    not load, and its import stops at `operator torchvision::nms does not exist`. open_clip uses no
    such operator: declaring the two schemas, only when the plain import fails, is enough.
    """
    try:
        import open_clip.transformer
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare_torchvision_operators()
        import open_clip.transformer
    module: ModuleType = open_clip.transformer
    return module


def _declare_torchvision_operators() -> None:
    import sys

    import torch.library

    new_library: Any = torch.library.Library  # untyped
    for name in _OPERATORS:
        library = new_library("torchvision", "FRAGMENT")
        library.define(f"{name}{_SCHEMA}")
        _defined.append(library)  # a schema lives as long as its library
    for name in [
        name for name in sys.modules if name.split(".")[0] in ("torchvision", "open_clip")
    ]:
        del sys.modules[name]  # half-imported by the attempt that failed
