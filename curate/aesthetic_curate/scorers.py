"""What a job's worker scores with: its servers, or the heads at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.contract import Head
from aesthetic_client.errors import InputError
from aesthetic_curate.config import Job
from aesthetic_curate.local_heads import LocalHeads
from aesthetic_curate.outcomes import Outcome
from aesthetic_curate.samples import Sample
from aesthetic_curate.servers import Servers
from aesthetic_curate.vectors import Blocks


class Scorer(Protocol):
    """Scores samples in their order, and unit vectors (n, 768) to scores (n,) by output name.

    `blocks` is how it wants the vectors: zeros stand for rows that are none. `refusals` counts the
    images that were refused one after another, over shards.
    """

    blocks: Blocks
    refusals: int

    def score(self, samples: Iterable[Sample]) -> Iterator[Outcome]: ...

    def score_embeddings(
        self, embeddings: NDArray[np.float32], heads: Sequence[Head]
    ) -> dict[str, NDArray[np.float32]]: ...

    def close(self) -> None: ...


class LocalScorer:
    """Heads without a server: for stored embeddings alone."""

    refusals = 0

    def __init__(self, heads: LocalHeads) -> None:
        self.blocks = heads.blocks
        self.score_embeddings = heads.score_units

    def score(self, samples: Iterable[Sample]) -> Iterator[Outcome]:
        raise InputError("images need the tower of a server: give --url, or leave --local away")

    def close(self) -> None:
        """Nothing is open."""


def open_scorer(job: Job) -> Scorer:
    """The servers of the job, or the heads of its file where it names none."""
    if job.urls:
        return Servers(job)
    return LocalScorer(LocalHeads.read(Path(job.heads_file) if job.heads_file else None))
