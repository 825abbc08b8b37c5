"""The image tower for OpenVINO: a graph in bf16 or int8, and what this CPU makes of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aesthetic_client.contract import BF16, CLIP_IMAGE, INT8, Profile
from aesthetic_client.errors import InputError
from aesthetic_export.measures import FloatArray
from aesthetic_export.parity import Embed, Pixels

if TYPE_CHECKING:
    from torch import nn

INSTALL = "pip install 'aesthetic-triton[openvino]'"
# As configs/bf16.pbtxt and configs/int8.pbtxt ask for it, by HINT_BF16.
PRECISION_HINT = {"INFERENCE_PRECISION_HINT": "bf16"}
METADATA = "aesthetic"  # the part of the graph's runtime information that is ours
# OpenVINO's names on the left.
_TYPES = {"FP32": "fp32", "BF16": "bf16", "INT8": "int8"}
_NEEDED = {BF16: ("bf16",), INT8: ("int8", "bf16")}


def check_installed() -> None:
    """Raises InputError with the command that mends it."""
    if importlib.util.find_spec("openvino") is None:
        raise InputError(f"the precisions bf16 and int8 need OpenVINO: {INSTALL}")


def write_tower(
    tower: nn.Module,
    profile: Profile,
    folder: Path,
    calibration: Pixels,
    metadata: Mapping[str, str],
) -> tuple[Path, Path]:
    """Write the profile's graph and weights of `tower` (towers.py) into `folder`.

    `calibration` (n, 224, 224, 3) uint8 is what int8 takes its ranges from; `metadata` goes into
    the graph's file. Returns the two files. Raises InputError without OpenVINO.
    """
    check_installed()
    import openvino

    from aesthetic_export.mixed_precision import keep_float32
    from aesthetic_export.openvino_graph import model_from_tower
    from aesthetic_export.quantization import quantize

    model = model_from_tower(tower)
    if profile is INT8:
        model = quantize(model, calibration)
    model = keep_float32(model)
    for key, value in metadata.items():
        model.set_rt_info(value, [METADATA, key])
    path = folder / profile.artifact
    # bf16's weights stay fp32 in the file, which is mapped and packed from there. As bfloat16 they
    # would take half of it, but OpenVINO unpacks such constants first: 3.7 GB in use, not 1.3.
    openvino.save_model(model, path, compress_to_fp16=False)
    return path, folder / profile.weights_file


def openvino_embedder(path: Path) -> Embed:
    """The tower at `path` on this CPU, computing as it is served."""
    import openvino

    compiled: Any = openvino.Core().compile_model(path, "CPU", PRECISION_HINT)
    (output,) = CLIP_IMAGE.outputs

    def embed(pixels: Pixels) -> FloatArray:
        return np.array(compiled(np.ascontiguousarray(pixels))[output.name], dtype=np.float32)

    return embed


@dataclass(frozen=True)
class Cpu:
    """A CPU's name, and the number types that it has instructions for."""

    name: str
    types: tuple[str, ...]

    def lacking(self, profile: Profile) -> list[str]:
        """What the profile is fast by, and this CPU has not."""
        return [name for name in _NEEDED[profile] if name not in self.types]


def this_cpu() -> Cpu:
    """The one that a profile is compared on."""
    import openvino

    core: Any = openvino.Core()
    name = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return Cpu(name, tuple(ours for theirs, ours in _TYPES.items() if theirs in capabilities))
