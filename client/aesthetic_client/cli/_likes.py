"""Files that `--like` names, read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import vectors
from aesthetic_client.cli import load_room


def read_direction(path: Path) -> NDArray[np.float32]:
    """The unit vector (768,) of an aesthetic embedding: `.safetensors`, `.npy`, or published `.pt`.

    Raises EmbeddingError for a file that holds none, InputError for a `.pt` without the extra.
    """
    if path.suffix == ".pt":
        embeddings = load_room("aesthetic_guidance.embeddings", "guidance")
        direction: NDArray[np.float32] = embeddings.AestheticEmbedding.read(path).vector
        return direction
    return vectors.unit_vector(vectors.read_vector(path).values)
