"""Checkpoints of CLIP ViT-L/14 in any common layout, as one: open_clip's image tower in fp32."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aesthetic_client.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Naming:
    """How transformers names one side of CLIP, and what open_clip calls the same."""

    root: str
    outer: Mapping[str, str]  # transformers' name -> open_clip's, outside the layers
    projection: tuple[str, str]  # the same for the projection, which open_clip has transposed
    index_buffer: str  # in old checkpoints; not a weight


VISION = Naming(
    root="vision_model.",
    outer={
        "vision_model.embeddings.class_embedding": "class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "positional_embedding",
        "vision_model.pre_layrnorm.weight": "ln_pre.weight",  # transformers' own spelling
        "vision_model.pre_layrnorm.bias": "ln_pre.bias",
        "vision_model.post_layernorm.weight": "ln_post.weight",
        "vision_model.post_layernorm.bias": "ln_post.bias",
    },
    projection=("visual_projection.weight", "proj"),
    index_buffer="vision_model.embeddings.position_ids",
)
# transformers' name -> open_clip's within layer i, on both sides.
INNER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TEXT = "text_model."  # two fifths of the file, not needed


def tower_state(path: Path) -> dict[str, torch.Tensor]:
    """The image tower of a checkpoint file: open_clip's names, fp32, on the CPU.

    Reads `.safetensors`, TorchScript archives (OpenAI's `.pt`) and pickled state dicts. A pickle is
    read with `weights_only=True`; a TorchScript archive only after its hash was checked by the
    caller. Raises InputError for anything else.
    """
    return open_clip_names(read_state(path, without=_TEXT), where=path.name)


def read_state(path: Path, *, without: str) -> Mapping[str, torch.Tensor]:
    """A checkpoint file's tensors under its own names.

    Those that begin with `without` are left out where that saves reading them (`.safetensors`).
    Raises InputError for a file that cannot be read.
    """
    return _read_safetensors(path, without) if path.suffix == ".safetensors" else _read_torch(path)


def open_clip_names(
    state: Mapping[str, torch.Tensor], *, where: str = "the checkpoint"
) -> dict[str, torch.Tensor]:
    """The image side of a state dict in OpenAI's, open_clip's or transformers' naming.

    Raises InputError when it is none of them.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(name.startswith("vision_model.") for name in state):
        tower = from_transformers(state, VISION, where)
    elif any(name.startswith("visual.") for name in state):
        prefix = "visual."
        tower = {n[len(prefix) :]: t for n, t in state.items() if n.startswith(prefix)}
    elif "class_embedding" in state:
        tower = state
    else:
        raise InputError(
            f"{where} holds no CLIP image tower: no tensor is named visual.*, vision_model.* or "
            "class_embedding"
        )
    return {name: tensor.detach().float().contiguous() for name, tensor in tower.items()}


def from_transformers(
    state: Mapping[str, torch.Tensor], naming: Naming, where: str
) -> dict[str, torch.Tensor]:
    """One side of a transformers state dict under open_clip's names.

    Raises InputError for a layer that lacks one of q, k and v.
    """
    import torch

    layers = f"{naming.root}encoder.layers."
    projection, projected = naming.projection
    tower: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}  # q, k, v of one in_proj tensor
    for name, tensor in state.items():
        if name in naming.outer:
            tower[naming.outer[name]] = tensor
        elif name == projection:
            tower[projected] = tensor.t()  # open_clip multiplies from the left
        elif name.startswith(layers):
            index, _, inner = name[len(layers) :].partition(".")
            module, _, kind = inner.rpartition(".")
            block = f"transformer.resblocks.{index}."
            if module in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                parts.setdefault(f"{block}attn.in_proj_{kind}", {})[module[10]] = tensor
            else:
                tower[f"{block}{INNER.get(module, module)}.{kind}"] = tensor
        elif name.startswith(naming.root) and name != naming.index_buffer:
            tower[name] = tensor  # unknown: strict loading will name it
    for name, qkv in parts.items():
        if sorted(qkv) != ["k", "q", "v"]:
            raise InputError(f"{where}: {name} lacks one of q, k and v")
        tower[name] = torch.cat([qkv["q"], qkv["k"], qkv["v"]])
    return tower


def _read_safetensors(path: Path, without: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names: Iterable[str] = file.keys()
            return {name: file.get_tensor(name) for name in names if not name.startswith(without)}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None


def _read_torch(path: Path) -> Mapping[str, torch.Tensor]:
    import torch

    if _is_torchscript(path):
        with warnings.catch_warnings():
            # PyTorch announces TorchScript's end; OpenAI's file is what it is.
            warnings.filterwarnings("ignore", message=r".*torch\.jit", category=Warning)
            load: Callable[..., torch.nn.Module] = torch.jit.load
            archive = load(str(path), map_location="cpu")
        return archive.state_dict()
    state = read_pickle(path)
    nested = state.get("state_dict")
    return nested if isinstance(nested, Mapping) else state


def read_pickle(path: Path) -> Mapping[str, torch.Tensor]:
    """A pickled state dict, read so that it cannot run code.

    Raises InputError when it is damaged, or holds anything but tensors and plain containers.
    """
    state = read_plain(path)
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds a {type(state).__name__}, not a dict of tensors")
    return state


def read_plain(path: Path) -> object:
    """What a file of `torch.save` holds, on the CPU: tensors and plain containers, never code.

    Raises InputError when it is damaged, or would need code to be run.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            found: object = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} is refused: not a plain file of tensors ({reason[:200]})"
        ) from None
    return found


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())
