"""The served tower's weights as files, which each way of running it loads as its users do.

Run as a fresh process by `children.run_module`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .torch_loop import load_tower

if TYPE_CHECKING:
    import torch
    from torch import nn

OPEN_CLIP, TRANSFORMERS = "open_clip.safetensors", "transformers.safetensors"


def write(task: Mapping[str, Any]) -> dict[str, Any]:
    """Task: tower (of `torch_loop.choose_tower`), folder. The result: the tower's `shape`."""
    from safetensors.torch import save_file

    module = load_tower(task["tower"]).module
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    folder = Path(task["folder"])
    save_file(state, folder / OPEN_CLIP)
    save_file(transformers_names(state), folder / TRANSFORMERS)
    return {"shape": shape_of(module)}


def shape_of(module: nn.Module) -> dict[str, int]:
    """The fields of a `Shape` of an open_clip tower."""
    tower: Any = module
    width, _, patch, _ = tower.conv1.weight.shape
    blocks = tower.transformer.resblocks
    hidden = blocks[0].mlp.c_fc.out_features
    return {
        "patch": patch,
        "width": width,
        "layers": len(blocks),
        "heads": blocks[0].attn.num_heads,
        "mlp_ratio": hidden // width,
    }


def transformers_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's image tower as transformers' `CLIPVisionModelWithProjection` names it.

    What `aesthetic_export.checkpoints.from_transformers` undoes.
    """
    from aesthetic_export.checkpoints import INNER, VISION

    outer = {ours: theirs for theirs, ours in VISION.outer.items()}
    inner = {ours: theirs for theirs, ours in INNER.items()}
    theirs, ours = VISION.projection
    renamed = {theirs: state[ours].t().contiguous()}
    for name, tensor in state.items():
        if name in outer:
            renamed[outer[name]] = tensor
        elif name.startswith("transformer.resblocks."):
            index, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
            block = f"{VISION.root}encoder.layers.{index}."
            module, _, kind = rest.replace("in_proj_", "in_proj.").rpartition(".")
            if module == "attn.in_proj":
                for part, third in zip("qkv", tensor.chunk(3), strict=True):
                    renamed[f"{block}self_attn.{part}_proj.{kind}"] = third.contiguous()
            else:
                renamed[f"{block}{inner[module]}.{kind}"] = tensor
    return renamed


if __name__ == "__main__":
    given, answer = Path(sys.argv[1]), Path(sys.argv[2])
    answer.write_text(json.dumps(write(json.loads(given.read_text("utf-8")))), "utf-8")
