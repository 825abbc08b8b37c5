"""Checkpoints of CLIP ViT-L/14 in any common layout, as open_clip's text tower in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aesthetic_client.errors import InputError
from aesthetic_export.checkpoints import Naming, from_transformers, read_state

if TYPE_CHECKING:
    import torch

TEXT = Naming(
    root="text_model.",
    outer={
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    },
    projection=("text_projection.weight", "text_projection"),
    index_buffer="text_model.embeddings.position_ids",
)
_VISION = "vision_model."  # three fifths of the file, not needed
# A whole CLIP of OpenAI has the text tower at its root, beside `visual.*` and `logit_scale`.
_PARTS = (
    "token_embedding.",
    "positional_embedding",
    "transformer.",
    "ln_final.",
    "text_projection",
)
_CUSTOM = "text."  # open_clip's CLIP whose text tower is a module of its own


def text_tower_state(path: Path) -> dict[str, torch.Tensor]:
    """The text tower of a checkpoint file: open_clip's names, fp32, on the CPU.

    Reads the files that `checkpoints.tower_state` reads, and as safely. Raises InputError.
    """
    return open_clip_text_names(read_state(path, without=_VISION), where=path.name)


def open_clip_text_names(
    state: Mapping[str, torch.Tensor], *, where: str = "the checkpoint"
) -> dict[str, torch.Tensor]:
    """The text side of a state dict in OpenAI's, open_clip's or transformers' naming.

    Raises InputError when it is none of them.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(name.startswith(TEXT.root) for name in state):
        tower = from_transformers(state, TEXT, where)
    elif "token_embedding.weight" in state:
        tower = {name: tensor for name, tensor in state.items() if name.startswith(_PARTS)}
    elif f"{_CUSTOM}token_embedding.weight" in state:
        tower = {n[len(_CUSTOM) :]: t for n, t in state.items() if n.startswith(_CUSTOM)}
    else:
        raise InputError(
            f"{where} holds no CLIP text tower: no tensor is named token_embedding.weight or "
            "text_model.*"
        )
    tower.pop("attn_mask", None)  # computed, yet kept by some open_clip checkpoints
    return {name: tensor.detach().float().contiguous() for name, tensor in tower.items()}
