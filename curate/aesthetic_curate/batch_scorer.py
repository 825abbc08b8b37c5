"""Scores of a batch that a pipeline holds in memory: images in any form, or stored embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import Client, EmbeddingError, ScoreResult, UnavailableError
from aesthetic_client._wire import resolve_heads, unit_embeddings
from aesthetic_client.contract import CLIP_IMAGE, EMBEDDING_DIM, MAX_IMAGE_BATCH
from aesthetic_client.errors import InputError
from aesthetic_client.images import Decode, ImageSource
from aesthetic_curate.config import Job, ScoreConfig
from aesthetic_curate.errors import StoppedError
from aesthetic_curate.likeness import Like, compared, cosines, like_notes, with_likes
from aesthetic_curate.options import InputOptions
from aesthetic_curate.servers import Servers

T = TypeVar("T")


class BatchScorer:
    """One worker's connections. Open it where it works: connections cannot be pickled.

    `url` is one server or several that serve the same model: what one leaves unanswered goes to
    another, until none has answered for `retry_s`. At most `in_flight` images are on their way to
    each of them. `heads` are names or output names, None for the default one, or "all". `likes` are
    further columns, which the attribute `heads` has at its end.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        heads: str | Sequence[str] | None = None,
        likes: Sequence[Like] = (),
        decode: Decode = "client",
        in_flight: int,
        timeout_s: float,
        retry_s: float,
    ) -> None:
        urls = (url,) if isinstance(url, str) else tuple(url)
        if not urls:
            raise InputError("url: name one server or more")
        self._urls, self._decode, self._in_flight = urls, decode, in_flight
        self._retry_s = retry_s
        self._servers = Servers(
            Job(
                out="",
                urls=urls,
                config=ScoreConfig(()),
                options=InputOptions(),
                decode=decode,
                in_flight=in_flight,
                timeout_s=timeout_s,
                patience_s=retry_s,
            )
        )
        self._pool = ThreadPoolExecutor(
            max(1, in_flight // self._group_size()) * len(urls), thread_name_prefix="curate-batch"
        )
        try:
            served = resolve_heads(heads, self._ask(lambda client: client.heads()))
            self.heads = with_likes(served, likes)
            self._warn_of_origins(likes)
        except BaseException:
            self.close()
            raise
        self._names, self._likes = [head.name for head in served], likes

    def _warn_of_origins(self, likes: Sequence[Like]) -> None:
        if not any(like.model for like in likes):
            return
        known = self._ask(lambda client: client.provenance([CLIP_IMAGE]))
        for note in like_notes(likes, known):
            warnings.warn(note, stacklevel=3)

    def images(
        self, sources: Sequence[ImageSource], *, embedding: bool = False
    ) -> list[ScoreResult]:
        """One result an image, in order. Raises UnavailableError when the servers stay away."""
        size = self._group_size()
        groups = [sources[start : start + size] for start in range(0, len(sources), size)]
        wants = embedding or bool(self._likes)

        def score(group: Sequence[ImageSource]) -> list[ScoreResult]:
            results = self._ask(
                lambda client: client.score_batch(group, heads=self._names, embedding=wants)
            )
            return [compared(result, self._likes, keep=embedding) for result in results]

        return [result for results in self._pool.map(score, groups) for result in results]

    def embeddings(self, vectors: Sequence[Any], *, normalize: bool = False) -> list[ScoreResult]:
        """One result a stored embedding, (768,), in order; of unit length, unless `normalize`.

        Raises UnavailableError when the servers stay away.
        """
        good, errors = unit_rows(vectors, normalize)
        columns = {}
        if len(good):
            columns = self._ask(
                lambda client: client.score_embeddings_by_head(good, heads=self._names)
            )
            columns |= cosines(self._likes, good)
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        scored = (ScoreResult(dict(zip(columns, row, strict=True))) for row in rows)
        return [next(scored) if error is None else ScoreResult(error=error) for error in errors]

    def close(self) -> None:
        """Close the connections."""
        self._servers.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _group_size(self) -> int:
        # Files go alone, so that the server decodes them side by side.
        return 1 if self._decode == "server" else min(MAX_IMAGE_BATCH, self._in_flight)

    def _ask(self, call: Callable[[Client], T]) -> T:
        try:
            return self._servers.ask(call)
        except StoppedError as error:
            raise UnavailableError(
                f"no answer for {self._retry_s:g} s from {', '.join(self._urls)}"
            ) from error


def unit_rows(
    vectors: Sequence[Any], normalize: bool
) -> tuple[NDArray[np.float32], list[EmbeddingError | None]]:
    """The unit vectors among `vectors`, (n, 768), and for each of `vectors` its error or None."""
    try:
        return unit_embeddings(np.stack(vectors), normalize=normalize), [None] * len(vectors)
    except (EmbeddingError, TypeError, ValueError):
        pass  # which of them it is, one by one
    good = [np.empty((0, EMBEDDING_DIM), np.float32)]
    errors: list[EmbeddingError | None] = []
    for vector in vectors:
        try:
            good.append(unit_embeddings([vector], normalize=normalize))
            errors.append(None)
        except EmbeddingError as error:
            errors.append(EmbeddingError(error.message))  # without its place among one
        except (TypeError, ValueError):
            errors.append(EmbeddingError("the embedding is no vector of numbers"))
    return np.concatenate(good), errors
