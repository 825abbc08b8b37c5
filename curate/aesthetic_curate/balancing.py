"""Which server a request goes to: the least busy one that answers and serves the right model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aesthetic_client import Client
from aesthetic_client.errors import AestheticError, DeadlineError, NoAnswerError
from aesthetic_curate.config import essentials
from aesthetic_curate.errors import MixedResultsError, StoppedError

T = TypeVar("T")
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
DEADLINES = 3  # tries of one request that may end without an answer in time
GO_ON = "what is done is kept: run the same command again to go on"


@dataclass
class _Server:
    """A server, and how it does. Requests go to it while it is `open`."""

    client: Client
    open: bool = False
    checked: bool = False  # a check is under way
    on_the_way: int = 0
    failures: int = 0
    rests_until_s: float = 0.0


@dataclass
class _Trouble:
    """One call's time without an answer."""

    since_s: float | None = None
    deadlines: int = 0


class Balancer:
    """Sends calls to servers, `slots` at most on the way to each. Thread-safe.

    A server gets requests once it has answered a check, which compares its model: it may have been
    deployed with other weights. One that leaves a request unanswered rests and is checked again; a
    check holds up no request, however long it takes.
    """

    def __init__(
        self, clients: Sequence[Client], slots: int, timeout_s: float, patience_s: float
    ) -> None:
        self._servers = [_Server(client) for client in clients]
        self._slots, self._timeout_s, self._patience_s = slots, timeout_s, patience_s
        self._changed = threading.Condition()
        self._closed = False
        self._fatal: AestheticError | None = None
        self._answered_s = 0.0
        self._last_failure = "it takes connections and says nothing"
        self._expected: dict[str, object] | None = None

    def expect(self, provenance: Mapping[str, Mapping[str, Any]]) -> None:
        """Every server has to serve this model. Else that of the first one that answers counts."""
        self._expected = essentials(provenance)

    def ask(self, call: Callable[[Client], T]) -> T:
        """The answer of whichever server gives one. Raises what is no matter of availability.

        Raises StoppedError when none answers for `patience_s`, or after `close`, and
        MixedResultsError for a server of another model.
        """
        trouble = _Trouble()
        while True:
            server = self._taken(trouble)
            try:
                answer = call(server.client)
            except NoAnswerError as error:
                self._failed(server, error, trouble)
                continue
            finally:
                self._given_back(server)
            self._answered_s, server.failures = time.monotonic(), 0
            return answer

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

    def close(self) -> None:
        """End what is on its way and what waits. A second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for server in self._servers:
            server.client.close()

    def _taken(self, trouble: _Trouble) -> _Server:
        """A slot of the least busy open server; waits for one."""
        with self._changed:
            while True:
                now = time.monotonic()
                waits = [self._patience_left_s(trouble, now)]
                for server in self._servers:
                    if not server.open and not server.checked:
                        waits.append(server.rests_until_s - now)
                        self._check_if_rested(server, now)
                free = [one for one in self._servers if one.open and one.on_the_way < self._slots]
                if free:
                    server = min(free, key=lambda one: one.on_the_way)
                    server.on_the_way += 1
                    return server
                if trouble.since_s is None and not any(one.open for one in self._servers):
                    trouble.since_s = now
                    continue
                self._changed.wait(min((wait for wait in waits if wait > 0), default=None))

    def _patience_left_s(self, trouble: _Trouble, now: float) -> float:
        """Seconds, infinite without trouble. Raises what ends the call."""
        if self._closed:
            raise StoppedError("the run was stopped")
        if self._fatal is not None:
            raise self._fatal
        if trouble.since_s is None:
            return LONGEST_PAUSE_S
        left_s = max(trouble.since_s, self._answered_s) + self._patience_s - now
        if left_s <= 0:
            urls = ", ".join(str(one.client.address) for one in self._servers)
            raise StoppedError(
                f"no answer for {self._patience_s:g} s from {urls} ({self._last_failure}); {GO_ON}"
            )
        return left_s

    def _check_if_rested(self, server: _Server, now: float) -> None:
        if server.rests_until_s <= now:
            server.checked = True
            threading.Thread(target=self._check, args=(server,), daemon=True).start()

    def _check(self, server: _Server) -> None:
        """Open the server, or let it rest again; an error of another kind ends all calls."""
        failure: AestheticError | None = None
        try:
            self.compare(server.client)
        except AestheticError as error:
            failure = error
        with self._changed:
            server.checked = False
            if failure is None:
                server.open = True
            elif isinstance(failure, NoAnswerError):
                self._rest(server, failure)
            elif not self._closed:
                self._fatal = failure
            self._changed.notify_all()

    def _failed(self, server: _Server, error: NoAnswerError, trouble: _Trouble) -> None:
        """Let the server rest. Raises StoppedError where the call has had its tries."""
        with self._changed:
            trouble.since_s = trouble.since_s or time.monotonic()
            if server.open:  # requests that fail together are one failure
                server.open = False
                self._rest(server, error)
        trouble.deadlines += isinstance(error, DeadlineError)
        if trouble.deadlines >= DEADLINES:
            raise StoppedError(
                f"{server.client.address} did not answer within {self._timeout_s:g} s, "
                f"{DEADLINES} times; raise --timeout or lower --in-flight; {GO_ON}"
            ) from error

    def _rest(self, server: _Server, error: NoAnswerError) -> None:
        # A call with little patience is to meet a few checks, too.
        longest_s = min(LONGEST_PAUSE_S, self._patience_s / 4)
        pause_s = min(longest_s, FIRST_PAUSE_S * 2.0 ** min(server.failures, 10))
        server.rests_until_s = time.monotonic() + pause_s
        server.failures += 1
        self._last_failure = error.message

    def _given_back(self, server: _Server) -> None:
        with self._changed:
            server.on_the_way -= 1
            self._changed.notify()
