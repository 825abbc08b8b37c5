"""What a reward adds up: served heads by name, cosines with vectors, each with a weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.contract import DEFAULT_HEAD, EMBEDDING_DIM
from aesthetic_client.errors import InputError
from aesthetic_client.vectors import one_vector, unit_vector

LIKE = "like"  # the label of a vector's cosine


@dataclass(frozen=True)
class Terms:
    """Weights by head name, and unit vectors (768,) with their weights by label."""

    heads: Mapping[str, float]
    vectors: Mapping[str, tuple[NDArray[np.float32], float]]

    def values(
        self, scores: Mapping[str, float], embedding: NDArray[np.float32] | None
    ) -> dict[str, float]:
        """Each term's value, without its weight, of one image's scores and unit embedding."""
        found = {name: scores[name] for name in self.heads}
        for label, (vector, _) in self.vectors.items():
            assert embedding is not None
            found[label] = float(embedding.astype(np.float64) @ vector)
        return found

    def total(self, values: Mapping[str, float]) -> float:
        """The weighted sum."""
        weights = {**self.heads, **{label: weight for label, (_, weight) in self.vectors.items()}}
        return sum(weight * values[name] for name, weight in weights.items())


def parse_terms(head: Any) -> Terms:
    """The terms of a head's name, a vector, {name: weight}, or (name or vector, weight) pairs.

    None is the default head. A vector is 768 numbers of any length, as an array, a tensor or an
    AestheticEmbedding. Raises InputError, EmbeddingError for a vector that has no direction.
    """
    if head is None:
        return Terms({DEFAULT_HEAD.name: 1.0}, {})
    if isinstance(head, Mapping):
        pairs = list(head.items())
    elif isinstance(head, str) or _is_vector(head):
        pairs = [(head, 1.0)]
    else:
        pairs = _pairs(head)
    heads: dict[str, float] = {}
    vectors: dict[str, tuple[NDArray[np.float32], float]] = {}
    for what, weight in pairs:
        if isinstance(what, str):
            if what in heads:
                raise InputError(f"head: {what!r} is named twice")
            heads[what] = _weight(weight, what)
        else:
            label = LIKE if not vectors else f"{LIKE}_{len(vectors) + 1}"
            vectors[label] = unit_vector(_vector(what)), _weight(weight, label)
    if not pairs:
        raise InputError("head: name a head or a vector, at least one")
    return Terms(heads, vectors)


def _pairs(head: Any) -> list[tuple[Any, Any]]:
    if isinstance(head, Sequence) and all(isinstance(p, tuple) and len(p) == 2 for p in head):
        return list(head)
    raise InputError(
        f"head: expected a name, a vector of {EMBEDDING_DIM} numbers, {{name: weight}} or a list "
        f"of (name or vector, weight), got {type(head).__name__}"
    )


def _is_vector(head: Any) -> bool:
    if hasattr(head, "shape") or hasattr(head, "vector"):
        return True
    return isinstance(head, Sequence) and len(head) > 0 and all(map(_is_number, head))


def _vector(value: Any) -> NDArray[np.float64]:
    value = getattr(value, "vector", value)  # an AestheticEmbedding's; its module needs torch
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    if not isinstance(value, np.ndarray):
        value = np.asarray(value, np.float64) if _is_vector(value) else np.empty(0)
    return one_vector(value, "head")


def _weight(weight: Any, name: str) -> float:
    if not _is_number(weight) or not math.isfinite(weight):
        raise InputError(f"head: the weight of {name!r} is {weight!r}, expected a finite number")
    return float(weight)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)
