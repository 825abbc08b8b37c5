"""What comes back from a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.contract import DEFAULT_HEAD
from aesthetic_client.errors import AestheticError


@dataclass(frozen=True)
class ScoreResult:
    """One image's scores, or the error that it ended in.

    `scores` maps head names to scores as the heads give them: never clamped, never rounded.
    `embedding` is FP32 (768,), L2-normalised, where it was asked for.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    embedding: NDArray[np.float32] | None = None
    error: AestheticError | None = None
    source: Any = None
    index: int = 0

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def score(self) -> float:
        """The default head's score, else the first one asked for. Raises this result's error."""
        if self.error is not None:
            raise self.error
        if DEFAULT_HEAD.name in self.scores:
            return self.scores[DEFAULT_HEAD.name]
        return next(iter(self.scores.values()))

    def of(self, source: object, index: int) -> ScoreResult:
        """The same result, for the caller's item at `index`."""
        return replace(self, source=source, index=index)


@dataclass(frozen=True, eq=False)
class TextResult:
    """Prompts as CLIP ViT-L/14's text tower sees them, a row a prompt.

    `embeddings` is FP32 (n, 768), L2-normalised; `last_hidden_state` FP32 (n, 77, 768), after the
    final layer norm, what Stable Diffusion 1.x is conditioned on. `token_count` (n,) is of the
    whole prompts: from 76 on the rest has no effect.
    """

    embeddings: NDArray[np.float32]
    last_hidden_state: NDArray[np.float32]
    token_count: NDArray[np.int32]


@dataclass(frozen=True)
class Health:
    """State of a server: alive, ready to score, and each of the contract's models."""

    live: bool
    ready: bool
    models: Mapping[str, bool]
    server: str
