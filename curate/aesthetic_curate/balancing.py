"""Which server a request goes to: the least busy one that answers and serves the right model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aesthetic_client import Client
from aesthetic_client.errors import DeadlineError, NoAnswerError
from aesthetic_curate.config import essentials
from aesthetic_curate.errors import MixedResultsError, StoppedError

T = TypeVar("T")
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
DEADLINES = 3  # tries of one request that may end without an answer in time
GO_ON = "what is done is kept: run the same command again to go on"


@dataclass
class _Server:
    """A server, and how it does. `known` says that its model was compared since it last failed."""

    client: Client
    on_the_way: int = 0
    failures: int = 0
    rests_until_s: float = 0.0
    known: bool = False


class Balancer:
    """Sends calls to servers, `slots` at most on the way to each. Thread-safe.

    A server that fails to answer rests for a while, and is then asked one thing at a time until it
    answers; its calls go to the others. One that comes back is asked for its provenance first: it
    may have been deployed anew with other weights.
    """

    def __init__(
        self, clients: Sequence[Client], slots: int, timeout_s: float, patience_s: float
    ) -> None:
        self._servers = [_Server(client) for client in clients]
        self._slots, self._timeout_s, self._patience_s = slots, timeout_s, patience_s
        self._changed = threading.Condition()
        self._closed = False
        self._failing_since_s: float | None = None
        self._expected: dict[str, object] | None = None

    def expect(self, provenance: Mapping[str, Mapping[str, Any]]) -> None:
        """Every server has to serve this model. Else that of the first one that answers counts."""
        self._expected = essentials(provenance)

    def ask(self, call: Callable[[Client], T]) -> T:
        """The answer of whichever server gives one. Raises what is no matter of availability.

        Raises StoppedError when none answers for `patience_s`, or after `close`, and
        MixedResultsError for a server of another model.
        """
        deadlines = 0
        while True:
            server = self._taken()
            try:
                if not server.known:
                    self.compare(server.client)
                    server.known = True
                answer = call(server.client)
            except NoAnswerError as error:
                deadlines += isinstance(error, DeadlineError)
                self._failed(server, error)
                if deadlines >= DEADLINES:
                    raise StoppedError(
                        f"{server.client.address} did not answer within {self._timeout_s:g} s, "
                        f"{deadlines} times; raise --timeout or lower --in-flight; {GO_ON}"
                    ) from error
                continue
            finally:
                self._given_back(server)
            self._answered(server)
            return answer

    def close(self) -> None:
        """End what is on its way and what waits. A second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for server in self._servers:
            server.client.close()

    def compare(self, client: Client) -> None:
        """Raises MixedResultsError for a server of another model, NoAnswerError for silence."""
        found = essentials(client.provenance())
        with self._changed:
            self._expected = self._expected or found
            if found != self._expected:
                raise MixedResultsError(
                    f"{client.address} serves different weights, heads or precision than the other "
                    "servers, or than at the start of the run; their scores do not belong "
                    "together: leave it away, or serve the same model everywhere"
                )

    def _taken(self) -> _Server:
        """A slot of the least busy server that may be asked; waits for one."""
        with self._changed:
            while True:
                if self._closed:
                    raise StoppedError("the run was stopped")
                now = time.monotonic()
                open_ones = [one for one in self._servers if self._may_be_asked(one, now)]
                if open_ones:
                    server = min(open_ones, key=lambda one: one.on_the_way)
                    server.on_the_way += 1
                    return server
                rests = [one.rests_until_s - now for one in self._servers]
                self._changed.wait(min((rest for rest in rests if rest > 0), default=None))

    def _may_be_asked(self, server: _Server, now: float) -> bool:
        slots = self._slots if not server.failures else 1
        return server.rests_until_s <= now and server.on_the_way < slots

    def _given_back(self, server: _Server) -> None:
        with self._changed:
            server.on_the_way -= 1
            self._changed.notify()

    def _answered(self, server: _Server) -> None:
        self._failing_since_s = None
        if server.failures:
            with self._changed:
                server.failures, server.rests_until_s = 0, 0.0
                self._changed.notify_all()

    def _failed(self, server: _Server, error: NoAnswerError) -> None:
        """Let the server rest. Raises StoppedError when all have failed for too long."""
        with self._changed:
            if self._closed:
                raise StoppedError("the run was stopped") from error
            now = time.monotonic()
            server.known = False
            if server.rests_until_s <= now:  # requests that fail together are one failure
                pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(server.failures, 10))
                server.rests_until_s = now + pause_s
                server.failures += 1
            if self._failing_since_s is None:
                self._failing_since_s = now
            elif now - self._failing_since_s > self._patience_s:
                urls = ", ".join(str(one.client.address) for one in self._servers)
                raise StoppedError(
                    f"no answer for {self._patience_s:g} s from {urls} ({error.message}); {GO_ON}"
                ) from error
