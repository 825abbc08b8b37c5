"""One or many Triton servers as one: bounded requests on the way to each, none lost.

A server that gives no answer is left alone for a while, and what was on its way goes to another.
Only when none has answered for `patience_s` does the run stop.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import Client, ScoreResult
from aesthetic_client._core import group_size
from aesthetic_client.contract import Head
from aesthetic_client.errors import DeadlineError, NoAnswerError, ServerError
from aesthetic_curate.config import Job, essentials
from aesthetic_curate.errors import MixedResultsError, StoppedError
from aesthetic_curate.outcomes import Outcome, outcome_of
from aesthetic_curate.samples import Sample
from aesthetic_curate.vectors import SERVED_BLOCKS

T = TypeVar("T")
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
DEADLINES = 3  # tries of one request that may end without an answer in time


@dataclass
class _Server:
    """A server, and how it does. Guarded by the lock of its `Servers`."""

    client: Client
    on_the_way: int = 0
    failures: int = 0
    rests_until_s: float = 0.0


@dataclass
class _State:
    closed: bool = False
    answered_s: float = field(default_factory=time.monotonic)
    failing_since_s: float | None = None


class Servers:
    """Scores samples in their order against the job's servers. Thread-safe; close it."""

    blocks = SERVED_BLOCKS

    def __init__(self, job: Job) -> None:
        self._job = job
        self._servers = [
            _Server(
                Client(
                    url,
                    decode=job.decode,
                    timeout_s=job.timeout_s,
                    retry_s=0,  # this class decides where the next try goes
                    headers=job.headers,
                )
            )
            for url in job.urls
        ]
        self._size = group_size(job.decode, job.in_flight)
        self._slots = max(1, job.in_flight // self._size)  # requests a server
        self._threads = self._slots * len(self._servers)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="curate")
        self._changed = threading.Condition()
        self._state = _State()

    def heads(self) -> tuple[Head, ...]:
        """The heads that the servers serve."""
        return self.ask(lambda client: client.heads())

    def provenance(self) -> Mapping[str, Mapping[str, Any]]:
        """Where the served numbers come from. Raises MixedResultsError where servers differ."""
        found = [(str(server.client.address), self._ask_one(server)) for server in self._servers]
        for address, other in found[1:]:
            if essentials(other) != essentials(found[0][1]):
                raise MixedResultsError(
                    f"{found[0][0]} and {address} serve different weights, heads or precisions; "
                    "their scores do not belong together: give one of them, or export both alike"
                )
        return found[0][1]

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

    def close(self) -> None:
        """End what is on its way. A second call does nothing."""
        with self._changed:
            self._state.closed = True
            self._changed.notify_all()
        for server in self._servers:
            server.client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

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
        names = [head.name for head in self._job.config.heads]
        wants = self._job.config.embedding is not None
        if not images:
            return []
        return self.ask(lambda client: client.score_batch(images, heads=names, embedding=wants))

    def _ask_one(self, server: _Server) -> Mapping[str, Mapping[str, Any]]:
        return self.ask(lambda client: client.provenance(), server)

    def ask(self, call: Callable[[Client], T], only: _Server | None = None) -> T:
        """The answer of whichever server gives one. Raises what is no matter of availability."""
        deadlines = 0
        while True:
            server = self._taken(only)
            try:
                answer = call(server.client)
            except NoAnswerError as error:
                deadlines += isinstance(error, DeadlineError)
                self._failed(server, error)
                if deadlines >= DEADLINES:
                    raise StoppedError(
                        f"{server.client.address} did not answer within {self._job.timeout_s:g} s, "
                        f"{deadlines} times; raise --timeout or lower --in-flight, and run the "
                        "same command again to go on"
                    ) from error
                continue
            finally:
                self._given_back(server)
            self._answered(server)
            return answer

    def _taken(self, only: _Server | None) -> _Server:
        """A slot of the least busy server that is not resting; waits for one."""
        choice = self._servers if only is None else [only]
        with self._changed:
            while True:
                if self._state.closed:
                    raise StoppedError("the run was stopped")
                now = time.monotonic()
                awake = [server for server in choice if server.rests_until_s <= now]
                server = min(awake, key=lambda one: one.on_the_way, default=None)
                if server is not None and server.on_the_way < self._slots:
                    server.on_the_way += 1
                    return server
                wakes_s = min(
                    (one.rests_until_s for one in choice if one.rests_until_s > now), default=None
                )
                self._changed.wait(None if wakes_s is None else wakes_s - now)

    def _given_back(self, server: _Server) -> None:
        with self._changed:
            server.on_the_way -= 1
            self._changed.notify()

    def _answered(self, server: _Server) -> None:
        with self._changed:
            server.failures, server.rests_until_s = 0, 0.0
            self._state.failing_since_s = None

    def _failed(self, server: _Server, error: NoAnswerError) -> None:
        """Let the server rest. Raises StoppedError when all have failed for too long."""
        with self._changed:
            if self._state.closed:
                raise StoppedError("the run was stopped") from error
            now = time.monotonic()
            if server.rests_until_s <= now:  # requests that fail together are one failure
                pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(server.failures, 10))
                server.rests_until_s = now + pause_s
                server.failures += 1
            since_s = self._state.failing_since_s
            if since_s is None:
                self._state.failing_since_s = now
            elif now - since_s > self._job.patience_s:
                urls = ", ".join(self._job.urls)
                raise StoppedError(
                    f"no answer for {self._job.patience_s:g} s from {urls} ({error.message}); what "
                    "is done is kept: run the same command again to go on"
                ) from error
