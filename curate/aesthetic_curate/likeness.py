"""Columns of cosines with aesthetic embeddings: `like_STEM` beside the heads' scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.cli._likes import read_direction
from aesthetic_client.contract import CLIP_IMAGE, Head, output_name
from aesthetic_client.errors import EmbeddingError, InputError
from aesthetic_client.results import ScoreResult
from aesthetic_client.vectors import origin_notes
from aesthetic_curate.vectors import ScoreUnits, Units, grouped_dot

PREFIX = "like_"


@dataclass(frozen=True)
class Like:
    """A column: cosines with the unit vector (768,) of a file whose SHA-256 is `sha256`.

    `model` is the provenance of the tower behind the vector, {} where the file tells none.
    """

    output: str
    sha256: str
    vector: NDArray[np.float32] = field(compare=False, repr=False)
    model: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def head(self) -> Head:
        """As a head among others: of one name, which is the column's."""
        return Head(self.output, self.output)


def read_likes(paths: Sequence[str | Path]) -> tuple[Like, ...]:
    """The columns of aesthetic embeddings' files.

    Raises EmbeddingError for a file that holds none, InputError where two share a column.
    """
    found: dict[str, Like] = {}
    for path in map(Path, paths):
        output = PREFIX + output_name(path.stem)
        if output in found:
            raise InputError(f"like: {path} and another file share the column {output}; rename one")
        vector, model = read_direction(path)
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise EmbeddingError(f"{path} cannot be read: {error.strerror or error}") from None
        found[output] = Like(output, digest, vector, model)
    return tuple(found.values())


def with_likes(heads: Sequence[Head], likes: Sequence[Like]) -> tuple[Head, ...]:
    """The heads, and then the likes as heads. Raises InputError where a head has a like's name."""
    taken = {name for head in heads for name in (head.name, head.output)}
    for like in likes:
        if like.output in taken:
            raise InputError(f"like: a head is named {like.output} too; rename the file")
    return (*heads, *(like.head for like in likes))


def with_origins(
    provenance: Mapping[str, Mapping[str, Any]], likes: Sequence[Like]
) -> dict[str, Mapping[str, Any]]:
    """A server's provenance by model, and that of the likes' towers by column, where it is known.

    A like of a random tower so makes results seeded, as a model of random weights does.
    """
    return {**provenance, **{like.output: dict(like.model) for like in likes if like.model}}


def like_notes(likes: Sequence[Like], provenance: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What must be said of likes that a random tower made, or another one than the server's."""
    tower = provenance.get(CLIP_IMAGE.name, {})
    return [note for like in likes for note in origin_notes(like.output, like.model, tower)]


def cosines(likes: Sequence[Like], units: Units) -> dict[str, NDArray[np.float32]]:
    """Cosines (n,) by column, of unit vectors (n, 768)."""
    return {like.output: grouped_dot(units, like.vector).astype(np.float32) for like in likes}


def scoring_likes(score: ScoreUnits, likes: Sequence[Like]) -> ScoreUnits:
    """`score`, which answers for the likes among the heads, too."""
    columns = {like.output for like in likes}

    def scored(units: Units, heads: Sequence[Head]) -> Mapping[str, NDArray[np.float32]]:
        served = [head for head in heads if head.output not in columns]
        return {**score(units, served), **cosines(likes, units)}

    return scored if likes else score


def compared(result: ScoreResult, likes: Sequence[Like], *, keep: bool) -> ScoreResult:
    """A result with the likes among its scores, by column; without its embedding unless `keep`."""
    if not likes or result.embedding is None:
        return result
    found = cosines(likes, result.embedding[None])
    scores = {**result.scores, **{name: float(values[0]) for name, values in found.items()}}
    return replace(result, scores=scores, embedding=result.embedding if keep else None)
