"""One or many Triton servers as one that scores samples: bounded on their way, in order, none lost.

A server that gives no answer is left alone for a while, and what was on its way goes to another.
Only when none has answered for `patience_s` does the run stop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import Client, ScoreResult
from aesthetic_client._core import group_size
from aesthetic_client.contract import Head
from aesthetic_client.errors import NoAnswerError, ServerError
from aesthetic_curate.balancing import Balancer
from aesthetic_curate.config import Job
from aesthetic_curate.likeness import compared
from aesthetic_curate.outcomes import Outcome, outcome_of
from aesthetic_curate.samples import Sample
from aesthetic_curate.vectors import SERVED_BLOCKS

T = TypeVar("T")
FIRST_LOOK_S = 10.0  # for each server's provenance, when a run starts


class Servers:
    """Scores samples in their order against the job's servers. Thread-safe; close it."""

    blocks = SERVED_BLOCKS
    refusals = 0

    def __init__(self, job: Job) -> None:
        self._job = job
        self._size = group_size(job.decode, job.in_flight)
        slots = max(1, job.in_flight // self._size)  # requests a server
        self._threads = slots * len(job.urls)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="curate")
        clients = [self._client(url, job.timeout_s) for url in job.urls]
        self._balancer = Balancer(clients, slots, job.timeout_s, job.patience_s)
        if job.provenance:
            self._balancer.expect(job.provenance)

    def heads(self) -> tuple[Head, ...]:
        """The heads that the servers serve."""
        return self.ask(lambda client: client.heads())

    def provenance(self) -> Mapping[str, Mapping[str, Any]]:
        """Where the served numbers come from; every server that answers now is compared.

        One that is away is compared when it comes back. Raises MixedResultsError for servers of
        different models, StoppedError when none answers.
        """
        found = self.ask(lambda client: client.provenance())
        self._balancer.expect(found)
        with ThreadPoolExecutor(len(self._job.urls)) as pool:
            list(pool.map(self._look_at, self._job.urls))
        return found

    def score(self, samples: Iterable[Sample]) -> Iterator[Outcome]:
        """One outcome a sample, in their order. `samples` is read a little ahead, no more.

        Raises StoppedError when no server answers for `patience_s`, or after `close`.
        """
        pending: deque[Future[list[Outcome]]] = deque()
        group: list[Sample] = []
        try:
            for sample in samples:
                group.append(sample)
                if len(group) == self._size:
                    pending.append(self._pool.submit(self._score_group, group))
                    group = []
                while len(pending) > self._threads or (pending and pending[0].done()):
                    yield from pending.popleft().result()
            if group:
                pending.append(self._pool.submit(self._score_group, group))
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def score_embeddings(
        self, embeddings: NDArray[np.float32], heads: Sequence[Head]
    ) -> dict[str, NDArray[np.float32]]:
        """Scores (n,) by output name, of unit vectors (n, 768); any number for a row of zeros."""
        names = [head.name for head in heads]
        none = ~embeddings.any(axis=1)
        if none.any():  # the client refuses them
            embeddings = embeddings.copy()
            embeddings[none, 0] = 1
        scores = self.ask(lambda client: client.score_embeddings_by_head(embeddings, heads=names))
        return {head.output: scores[head.name] for head in heads}

    def ask(self, call: Callable[[Client], T]) -> T:
        """The answer of whichever server gives one; see Balancer.ask."""
        return self._balancer.ask(call)

    def close(self) -> None:
        """End what is on its way. A second call does nothing."""
        self._balancer.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _client(self, url: str, timeout_s: float) -> Client:
        # retry_s=0: the balancer decides where the next try goes
        job = self._job
        return Client(url, decode=job.decode, timeout_s=timeout_s, retry_s=0, headers=job.headers)

    def _look_at(self, url: str) -> None:
        """Compare one server with the others, if it is there."""
        timeout_s = min(FIRST_LOOK_S, self._job.timeout_s)
        with self._client(url, timeout_s) as client:
            try:
                self._balancer.compare(client)
            except NoAnswerError:
                return

    def _score_group(self, group: Sequence[Sample]) -> list[Outcome]:
        images = [sample.image for sample in group if sample.image is not None]
        results = self._score_images(images)
        for at, result in enumerate(results):
            if isinstance(result.error, ServerError):  # perhaps another server, or another moment
                results[at] = self._score_images([images[at]])[0]
        answers = iter(results)
        return [
            outcome_of(sample, None if sample.image is None else next(answers)) for sample in group
        ]

    def _score_images(self, images: Sequence[bytes]) -> list[ScoreResult]:
        config = self._job.config
        names = [head.name for head in config.heads]
        if not images:
            return []
        results = self.ask(
            lambda client: client.score_batch(images, heads=names, embedding=config.needs_embedding)
        )
        keep = config.embedding is not None
        return [compared(result, config.likes, keep=keep) for result in results]
