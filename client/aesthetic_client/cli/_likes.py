"""Files that `--like` names, read."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import vectors
from aesthetic_client.cli import load_room
from aesthetic_client.client import Client
from aesthetic_client.contract import CLIP_IMAGE


class Direction(NamedTuple):
    """A unit vector (768,), and the provenance of the tower behind it, {} where it is unknown."""

    vector: NDArray[np.float32]
    model: Mapping[str, Any]


def read_direction(path: Path) -> Direction:
    """Of an aesthetic embedding: `.safetensors`, `.npy`, or published `.pt`, which tells no tower.

    Raises EmbeddingError for a file that holds none, InputError for a `.pt` without the extra.
    """
    if path.suffix == ".pt":
        embeddings = load_room("aesthetic_guidance.embeddings", "guidance")
        found = embeddings.AestheticEmbedding.read(path)
        return Direction(found.vector, found.model)
    stored = vectors.read_vector(path)
    return Direction(vectors.unit_vector(stored.values), stored.model)


def warn_of_origins(likes: Mapping[str, Direction], client: Client) -> None:
    """Say on stderr which of them a random tower made, or another one than the server's."""
    if not any(like.model for like in likes.values()):
        return
    served = client.provenance([CLIP_IMAGE]).get(CLIP_IMAGE.name, {})
    for name, like in likes.items():
        for note in vectors.origin_notes(name, like.model, served):
            print(note, file=sys.stderr)
