"""A text tower as a file: what `aesthetic_personalize` computes with, for it needs the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from aesthetic_client.contract import PROVENANCE_PREFIX
from aesthetic_client.errors import InputError
from aesthetic_export.provenance import metadata_of
from aesthetic_export.text_towers import TextShape, build_text_transformer, shape_of
from aesthetic_export.towers import Tower, load_weights

TEXT_WEIGHTS = "text_tower.safetensors"
FORMAT = "clip-text-tower-1"


def write_text_weights(folder: Path, tower: Tower, provenance: Mapping[str, object]) -> Path:
    """Write open_clip's names and fp32 values of `tower` into `folder`; the file's path."""
    from safetensors.torch import save_file

    metadata = {
        "format": FORMAT,
        "shape": json.dumps(asdict(shape_of(tower.module))),
        **metadata_of(provenance),
    }
    path = folder / TEXT_WEIGHTS
    state = tower.module.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata)
    return path


def read_text_weights(path: Path) -> Tower:
    """The tower that `write_text_weights` wrote. Raises InputError for another file."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise InputError(f"{path} is no {FORMAT} file of `aesthetic export`")
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    module = build_text_transformer(TextShape(**json.loads(metadata["shape"])))
    load_weights(module, state, f"{path} holds another text tower")
    return Tower(
        module,
        metadata[f"{PROVENANCE_PREFIX}weights"],
        metadata[f"{PROVENANCE_PREFIX}source"],
        metadata.get(f"{PROVENANCE_PREFIX}weights_sha256"),
    )
