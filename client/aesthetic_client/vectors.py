"""One 768-vector in a file, such as an aesthetic embedding, read with numpy alone.

`.safetensors` is an 8-byte little-endian length, so many bytes of JSON (dtype, shape and data
offsets by tensor name, `__metadata__` beside them), then the tensors' bytes:
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.contract import EMBEDDING_DIM, PROVENANCE_PREFIX, SEEDED_WEIGHTS
from aesthetic_client.errors import EmbeddingError

SUFFIXES = (".safetensors", ".npy")
_LARGEST_FILE_BYTES = 1 << 20  # one vector and its metadata are a few KB
_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_BFLOAT16 = "BF16"  # the upper half of an F32's bytes


@dataclass(frozen=True)
class StoredVector:
    """A file's vector as stored, float64 (768,), and its metadata, where the format has any."""

    values: NDArray[np.float64]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> dict[str, str]:
        """The provenance of the tower behind it, {} where the file does not tell."""
        return tower_of(self.metadata)


def read_vector(path: Path) -> StoredVector:
    """The one vector of a `.safetensors` or `.npy` file: 768 numbers in any floating dtype.

    Raises EmbeddingError for a file that cannot be read, or holds anything else.
    """
    if path.suffix not in SUFFIXES:
        raise EmbeddingError(f"{path}: expected a file that ends in {' or '.join(SUFFIXES)}")
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise EmbeddingError(f"{path} is too large for one vector of {EMBEDDING_DIM} numbers")
        if path.suffix == ".npy":
            return StoredVector(one_vector(np.load(path, allow_pickle=False), str(path)))
        array, metadata = _one_tensor(path.read_bytes())
    except EmbeddingError:
        raise
    except OSError as error:
        raise EmbeddingError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError) as error:
        raise EmbeddingError(f"{path} is no {path.suffix} file of one vector: {error}") from None
    return StoredVector(one_vector(array, str(path)), metadata)


def one_vector(values: NDArray[Any], where: str) -> NDArray[np.float64]:
    """(768,) float64 from (768,) or (1, 768) of a floating dtype, its length as it was.

    Raises EmbeddingError for another shape or dtype, NaN, infinity or zeros alone.
    """
    if values.shape not in ((EMBEDDING_DIM,), (1, EMBEDDING_DIM)):
        raise EmbeddingError(
            f"expected one CLIP ViT-L/14 vector of shape ({EMBEDDING_DIM},), got {values.shape}",
            position=where,
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise EmbeddingError(f"expected floating point numbers, got {values.dtype}", position=where)
    vector: NDArray[np.float64] = values.reshape(-1).astype(np.float64)
    if not np.isfinite(vector).all():
        raise EmbeddingError("holds NaN or infinity", position=where)
    if not vector.any():
        raise EmbeddingError("is all zero and has no direction", position=where)
    return vector


def unit_vector(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    """The same direction as float32 of length 1; divided in float64, where fp16 would overflow."""
    return exact_unit(vector).astype(np.float32)


def exact_unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same direction as float64 of length 1.

    Scaled first: the squares of 1e200 overflow, and those of 1e-200 vanish.
    """
    scaled = vector / np.abs(vector).max()
    unit: NDArray[np.float64] = scaled / np.linalg.norm(scaled)
    return unit


def tower_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """The provenance fields among a file's metadata."""
    return {
        key.removeprefix(PROVENANCE_PREFIX): value
        for key, value in metadata.items()
        if key.startswith(PROVENANCE_PREFIX)
    }


def is_seeded(model: Mapping[str, Any]) -> bool:
    """Whether a provenance tells of random weights."""
    return SEEDED_WEIGHTS in str(model.get("weights", ""))


def origin_notes(name: str, model: Mapping[str, Any], served: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be said where a vector of the tower `model` is compared with `served`'s embeddings.

    Both are provenance; {} is an unknown tower, of which nothing is said.
    """
    if is_seeded(model):
        return (f"MEANINGLESS: {name} was made by a tower with weights: {SEEDED_WEIGHTS}",)
    if not model.get("weights") or not served.get("weights"):
        return ()
    hashes = [one.get("weights_sha256") for one in (model, served)]
    by = hashes if all(hashes) else [one["weights"] for one in (model, served)]
    if by[0] == by[1]:
        return ()
    told = [
        f"{one['weights']}, sha256 {str(digest)[:12]}" if digest else str(one["weights"])
        for one, digest in zip((model, served), hashes, strict=True)
    ]
    return (
        f"WARNING: {name} was made by another tower ({told[0]}) than the one it is compared with "
        f"({told[1]}): such cosines tell nothing",
    )


def _one_tensor(data: bytes) -> tuple[NDArray[Any], dict[str, str]]:
    """A safetensors file's only tensor. Raises ValueError, KeyError or TypeError for another."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    if len(header) != 1:
        raise ValueError(f"it holds {len(header)} tensors, expected 1")
    (entry,) = header.values()
    start, end = entry["data_offsets"]
    block = data[8 + length :][start:end]
    if len(block) != end - start:
        raise ValueError("it ends too early")
    if entry["dtype"] == _BFLOAT16:
        array = (np.frombuffer(block, "<u2").astype("<u4") << 16).view("<f4")
    else:
        array = np.frombuffer(block, _DTYPES[entry["dtype"]])
    return array.reshape(entry["shape"]), {str(k): str(v) for k, v in metadata.items()}
