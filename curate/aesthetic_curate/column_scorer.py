"""Scores columns of a batch: what Ray Data's `map_batches` calls, and others that speak numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import EmbeddingError, ImageError, ScoreResult
from aesthetic_client.contract import EMBEDDING_DIM
from aesthetic_client.errors import AestheticError, InputError
from aesthetic_client.images import Decode
from aesthetic_curate import columns
from aesthetic_curate.batch_scorer import BatchScorer
from aesthetic_curate.config import DEFAULT_IN_FLIGHT, DEFAULT_PATIENCE_S, DEFAULT_TIMEOUT_S
from aesthetic_curate.likeness import read_likes
from aesthetic_curate.samples import Status

Columns = Mapping[str, NDArray[Any]]


class AestheticScorer:
    """A batch of rows, as numpy arrays by column, to the same with its scores.

        dataset.map_batches(
            AestheticScorer,
            fn_constructor_kwargs={"url": ["gpu-1:8001", "gpu-2:8001"], "image_column": "bytes"},
            concurrency=2,
            batch_size=64,
        )

    Adds a float32 column a head under the head's output name (`aesthetic_score` is the default
    head's; NaN where there is no score), `status` ("ok", "no_image", "unreadable", "bad_image",
    "bad_embedding" or "refused") and `error` ("" for none). Rows keep their order, and none is left
    out. A column of the caller's whose name is taken is kept as `source_NAME`.

    Args:
        url: one server, or several that serve the same model.
        heads: heads by name, None for the default one, or "all".
        like: files of aesthetic embeddings: each adds a float32 column `like_STEM`, the cosine with
            it. They are read here, not on the workers.
        image_column: encoded files as bytes (or a struct with `bytes`, as Hugging Face has it),
            uint8 arrays (H, W, 3) in RGB, or local paths.
        embedding_column: stored embeddings (768,) of unit length are scored, instead of images.
        normalize: stored embeddings may have any length.
        embedding: add a column `embedding`, float32 (768,), NaN where there is no score.
        decode: "server" sends files as they are, "client" prepares their pixels in the worker.
        in_flight: images of one worker on their way to each server.
        timeout_s: how long one request may take.
        retry_s: how long servers that are away are waited for; then UnavailableError is raised.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        heads: str | Sequence[str] | None = None,
        like: Sequence[str | Path] = (),
        image_column: str = "image",
        embedding_column: str | None = None,
        normalize: bool = False,
        embedding: bool = False,
        decode: Decode = "server",
        in_flight: int = DEFAULT_IN_FLIGHT,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry_s: float = DEFAULT_PATIENCE_S,
    ) -> None:
        if embedding and embedding_column is not None:
            raise InputError("embedding: the embeddings are in embedding_column already")
        self._connection: dict[str, Any] = {
            "url": url,
            "heads": heads,
            "likes": read_likes(like),
            "decode": decode,
            "in_flight": in_flight,
            "timeout_s": timeout_s,
            "retry_s": retry_s,
        }
        self._column = image_column if embedding_column is None else embedding_column
        self._stored = embedding_column is not None
        self._normalize, self._embedding = normalize, embedding
        self._scorer: BatchScorer | None = None

    def __call__(self, batch: Columns) -> dict[str, NDArray[Any]]:
        """The batch with scores. Raises InputError for a missing column or an unknown head."""
        if self._column not in batch:
            raise InputError(f"no column {self._column!r}; there are: {', '.join(batch) or 'none'}")
        if self._scorer is None:  # on the worker, at its first batch
            self._scorer = BatchScorer(**self._connection)
        sources = [_source(value) for value in batch[self._column]]
        if self._stored:
            results = self._scorer.embeddings(sources, normalize=self._normalize)
        else:
            files = [b"" if source is None else source for source in sources]
            results = self._scorer.images(files, embedding=self._embedding)
        found = self._columns(sources, results)
        return {**_renamed(batch, set(found)), **found}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scorer": None}  # connections stay where they were opened

    def close(self) -> None:
        """Close the connections; the next batch opens them again."""
        if self._scorer is not None:
            self._scorer.close()
        self._scorer = None

    def _columns(
        self, sources: Sequence[Any], results: Sequence[ScoreResult]
    ) -> dict[str, NDArray[Any]]:
        assert self._scorer is not None
        found: dict[str, NDArray[Any]] = {
            head.output: np.array(
                [result.scores.get(head.name, np.nan) for result in results], np.float32
            )
            for head in self._scorer.heads
        }
        outcomes = [
            ("no_image", "") if source is None and not self._stored else _outcome(result.error)
            for source, result in zip(sources, results, strict=True)
        ]
        found[columns.STATUS] = np.array([status for status, _ in outcomes], object)
        found[columns.ERROR] = np.array([error for _, error in outcomes], object)
        if self._embedding:
            missing = np.full(EMBEDDING_DIM, np.nan, np.float32)
            vectors = [missing if r.embedding is None else r.embedding for r in results]
            found[columns.EMBEDDING] = np.array(vectors, np.float32).reshape(-1, EMBEDDING_DIM)
        return found


def _source(value: Any) -> Any:
    """What the client reads, of a column's value; None where there is nothing."""
    if isinstance(value, Mapping):
        return value.get("bytes") or value.get("path") or None
    return value


def _outcome(error: AestheticError | None) -> tuple[Status, str]:
    """The status of a row, and the reason."""
    if error is None:
        return "ok", ""
    if isinstance(error, EmbeddingError):
        return "bad_embedding", error.message
    if isinstance(error, ImageError):
        status: Status = "unreadable" if error.code == "unreadable" else "bad_image"
        return status, f"{error.message} [{error.code}]"
    return ("bad_image" if isinstance(error, InputError) else "refused"), error.message


def _renamed(batch: Columns, taken: set[str]) -> dict[str, NDArray[Any]]:
    """The caller's columns, those whose names are taken under others."""
    kept: dict[str, NDArray[Any]] = {}
    for name, column in batch.items():
        while name in taken or name in kept:
            name = columns.SOURCE_PREFIX + name
        kept[name] = column
    return kept
