"""Aesthetic embeddings: the mean of images' CLIP features, which stands for what they share.

Gallego, Personalizing Text-to-Image Generation via Aesthetic Gradients, 2022, arXiv 2209.12330,
section 3: e is the mean of the images' CLIP embeddings, normalised to length 1.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import Client
from aesthetic_client._wire import UNIT_TOLERANCE
from aesthetic_client.contract import CLIP_IMAGE, EMBEDDING_DIM
from aesthetic_client.errors import EmbeddingError, InputError
from aesthetic_client.images import ImageSource
from aesthetic_client.vectors import (
    SUFFIXES,
    exact_unit,
    is_seeded,
    one_vector,
    origin_notes,
    read_vector,
    tower_of,
    unit_vector,
)
from aesthetic_export.provenance import metadata_of

FORMAT = "aesthetic-embedding-1"  # `format` of the metadata of our .safetensors
PUBLISHED_SUFFIX = ".pt"
RAW_NEEDED = (
    "these are unit vectors, and the published mean of raw features needs the features' lengths, "
    "which the server does not give: take the mean with each image normalised, or give raw "
    "features (`aesthetic guide embed --raw` computes them in this process)"
)


@dataclass(frozen=True, eq=False)
class AestheticEmbedding:
    """A direction among CLIP ViT-L/14 embeddings. `vector` is float32 (768,) of length 1.

    `images` is how many it is the mean of, `normalize_each` whether each was of length 1 in that
    mean, None where the file did not say. `source` says where it comes from, `model` is the
    provenance of the tower that embedded the images, {} where it is unknown.
    """

    vector: NDArray[np.float32]
    images: int | None = None
    normalize_each: bool | None = None
    source: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seeded(self) -> bool:
        """Whether the tower's weights were random: the direction then means nothing."""
        return is_seeded(self.model)

    @classmethod
    def of(cls, values: NDArray[Any], source: str = "", **known: Any) -> AestheticEmbedding:
        """From (768,) or (1, 768) of any floating dtype and length.

        Raises EmbeddingError for another shape, NaN, infinity or zeros alone.
        """
        vector = unit_vector(one_vector(np.asarray(values), source or "the embedding"))
        return cls(vector, source=source, **known)

    @classmethod
    def read(cls, path: Path) -> AestheticEmbedding:
        """From a `.safetensors`, a published `.pt` (one tensor, in any dtype) or a `.npy` file.

        Raises InputError for a file that holds anything else, or needs code to be run.
        """
        path = Path(path)
        if path.suffix == PUBLISHED_SUFFIX:
            return cls.of(_published(path), str(path))
        if path.suffix not in SUFFIXES:
            ends = ", ".join((*SUFFIXES, PUBLISHED_SUFFIX))
            raise EmbeddingError(f"{path}: expected an aesthetic embedding that ends in {ends}")
        stored = read_vector(path)
        return cls(unit_vector(stored.values), **_known(stored.metadata, str(path)))

    def write(self, path: Path) -> None:
        """As `.safetensors` with everything known, or as `.pt` (1, 768), as the published ones are.

        A `.pt` holds the vector alone. Raises EmbeddingError for another ending.
        """
        path = Path(path)
        partial = path.with_name(f"{path.name}.partial")
        if path.suffix == PUBLISHED_SUFFIX:
            import torch

            torch.save(torch.from_numpy(self.vector.copy())[None], partial)
        elif path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file({"embedding": np.ascontiguousarray(self.vector)}, partial, self._metadata())
        else:
            raise EmbeddingError(f"{path}: name a file that ends in .safetensors or .pt")
        partial.replace(path)

    def _metadata(self) -> dict[str, str]:
        known = {"images": self.images, "normalize_each": self.normalize_each}
        return {
            "format": FORMAT,
            "source": self.source,
            **{name: json.dumps(value) for name, value in known.items() if value is not None},
            **metadata_of(self.model),
        }


def mean_of(
    features: NDArray[Any],
    *,
    normalize_each: bool = True,
    source: str = "",
    model: Mapping[str, Any] | None = None,
) -> AestheticEmbedding:
    """The unit-length mean of image features (n, 768).

    With `normalize_each` every image counts alike. Without it the raw features are averaged, as the
    published code does: an image whose feature is longer counts for more.
    (https://github.com/vicgalle/stable-diffusion-aesthetic-gradients)
    Raises EmbeddingError for wrong shapes, NaN, zeros, a mean without direction, and for unit
    vectors without `normalize_each`: what made the raw features differ is not in them.
    """
    array = np.asarray(features)
    if array.ndim != 2 or array.shape[1] != EMBEDDING_DIM or not len(array):
        raise EmbeddingError(f"expected features (n, {EMBEDDING_DIM}), n > 0; got {array.shape}")
    rows = np.stack([one_vector(row, f"features[{at}]") for at, row in enumerate(array)])
    if normalize_each:
        rows = np.stack([exact_unit(row) for row in rows])
    elif (np.abs(np.linalg.norm(rows, axis=1) - 1) <= UNIT_TOLERANCE).all():
        raise EmbeddingError(RAW_NEEDED)
    mean = rows.mean(axis=0)
    if np.linalg.norm(mean) < 1e-6 * np.linalg.norm(rows, axis=1).max():
        raise EmbeddingError("the features cancel out: their mean has no direction")
    return AestheticEmbedding(
        unit_vector(mean), len(rows), normalize_each, source, dict(model or {})
    )


def similarity(
    items: NDArray[Any] | Iterable[ImageSource],
    embedding: AestheticEmbedding,
    client: Client | None = None,
    *,
    prompts: bool = False,
) -> NDArray[np.float64]:
    """Cosines (n,) of vectors (n, 768), raw or of length 1, or of images that `client` embeds.

    With `prompts`, the items are a prompt or a list of them, and `client` embeds their text.
    Warns where a random tower made the embedding, or another one than the client's server has.
    Raises EmbeddingError for vectors without direction, ValueError for images or prompts without a
    client, and the first image's error that could not be embedded.
    """
    if isinstance(items, np.ndarray) and items.ndim == 2 and not prompts:
        vectors = items
    elif client is None:
        raise ValueError("images and prompts need a client: similarity(images, embedding, client)")
    else:
        _warn_of_origin(embedding, client)
        vectors = _text_embedded(client, items) if prompts else embedded(client, items)
    rows = [one_vector(row, f"items[{at}]") for at, row in enumerate(vectors)]
    direction = embedding.vector.astype(np.float64)
    return np.array([exact_unit(row) @ direction for row in rows], dtype=np.float64)


def _text_embedded(client: Client, prompts: Any) -> NDArray[np.float32]:
    if isinstance(prompts, np.ndarray):
        raise InputError("prompts=True: give a prompt, or a list of prompts; got an array")
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    return client.embed_text(listed).embeddings


def _warn_of_origin(embedding: AestheticEmbedding, client: Client) -> None:
    if not embedding.model:
        return
    served = client.provenance([CLIP_IMAGE]).get(CLIP_IMAGE.name, {})
    for note in origin_notes(embedding.source or "the embedding", embedding.model, served):
        warnings.warn(note, stacklevel=3)


def embedded(client: Client, images: Iterable[ImageSource]) -> NDArray[np.float32]:
    """Embeddings (n, 768) of images, of length 1, in order. Raises the first error of an image."""
    vectors = [np.empty((0, EMBEDDING_DIM), np.float32)]
    for result in client.score_many(images, embedding=True):
        if result.error is not None:
            raise result.error
        assert result.embedding is not None
        vectors.append(result.embedding[None])
    return np.concatenate(vectors)


def _published(path: Path) -> NDArray[Any]:
    """A `.pt` file's tensor, widened in float64: some are fp16, whose squares would overflow."""
    import torch

    from aesthetic_export.checkpoints import read_plain

    found = read_plain(path)
    if not isinstance(found, torch.Tensor):
        raise EmbeddingError(f"{path} holds a {type(found).__name__}, expected one tensor")
    if not found.is_floating_point():
        raise EmbeddingError(f"{path} holds {found.dtype}, expected floating point numbers")
    array: NDArray[Any] = found.detach().double().numpy()
    return array


def _known(metadata: Mapping[str, str], path: str) -> dict[str, Any]:
    """The fields that our own metadata tells; a file of others tells none."""
    if metadata.get("format") != FORMAT:
        return {"source": path}
    images, normalized = metadata.get("images", ""), metadata.get("normalize_each")
    return {
        "images": int(images) if images.isdecimal() else None,
        "normalize_each": None if normalized is None else normalized == "true",
        "source": metadata.get("source") or path,
        "model": tower_of(metadata),
    }
