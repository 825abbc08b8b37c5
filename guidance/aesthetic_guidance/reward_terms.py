"""What a reward adds up: served heads by name, cosines with vectors, each with a weight."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.contract import DEFAULT_HEAD, EMBEDDING_DIM
from aesthetic_client.errors import InputError
from aesthetic_client.vectors import is_seeded, one_vector, unit_vector

LIKE = "like"  # the label of a vector's cosine


@dataclass(frozen=True)
class Terms:
    """Weights by head name, and unit vectors (768,) with their weights by label.

    `origins` is the provenance of the towers behind vectors, by label, where it is known.
    Raises InputError where a head has a label's name.
    """

    heads: Mapping[str, float]
    vectors: Mapping[str, tuple[NDArray[np.float32], float]]
    origins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.heads.keys() & self.vectors.keys():
            raise InputError(
                f"head: {name!r} names a head and the cosine with a vector, whose values could "
                "not be told apart; ask for the head by its other name, or for one of the two"
            )

    @property
    def meaningless(self) -> bool:
        """Whether a vector is of a random tower."""
        return any(map(is_seeded, self.origins.values()))

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
    origins: dict[str, Mapping[str, Any]] = {}
    for what, weight in pairs:
        if isinstance(what, str):
            if what in heads:
                raise InputError(f"head: {what!r} is named twice")
            heads[what] = _weight(weight, what)
        else:
            label = LIKE if not vectors else f"{LIKE}_{len(vectors) + 1}"
            vectors[label] = unit_vector(_vector(what)), _weight(weight, label)
            if hasattr(what, "vector") and what.model:
                origins[label] = what.model
    if not pairs:
        raise InputError("head: name a head or a vector, at least one")
    return Terms(heads, vectors, origins)


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
        try:
            value = np.asarray(value, np.float64) if _is_vector(value) else np.empty(0)
        except OverflowError:  # an integer of more than 308 digits
            raise InputError("head: the vector has a number beyond 1e308") from None
    return one_vector(value, "head")


def _weight(weight: Any, name: str) -> float:
    with contextlib.suppress(OverflowError):  # an integer of more than 308 digits
        if _is_number(weight) and math.isfinite(weight):
            return float(weight)
    shown = repr(weight) if not isinstance(weight, int) or abs(weight) < 1e308 else "beyond 1e308"
    raise InputError(f"head: the weight of {name!r} is {shown}, expected a finite number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)
