"""HTTP connections that are lent for one exchange each, whichever thread asks.

By the standard library: the sockets of tritonclient's blocking client belong to the thread that
opened them (gevent), so that each thread which comes and goes would leave its own behind.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection, HTTPSConnection

from aesthetic_client._address import Address


@dataclass(frozen=True)
class Answer:
    """What came back, read to its end."""

    status: int
    reason: str
    headers: Message
    body: bytes


class Connections:
    """As many connections as calls are made at once. Thread-safe; opens them as needed."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._host, _, path = address.netloc.partition("/")
        self._path = f"/{path}" if path else ""
        self._kind: type[HTTPConnection] = HTTPSConnection if address.tls else HTTPConnection
        self._timeout_s = timeout_s
        self._open: set[HTTPConnection] = set()
        self._idle: list[HTTPConnection] = []
        self._start()

    def exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """One request and its answer, whatever its status. Raises OSError or HTTPException."""
        while True:
            connection = self._lend()
            used_before = connection.sock is not None
            try:
                connection.request(method, self._path + path, body, dict(headers))
                response = connection.getresponse()
                answer = Answer(response.status, response.reason, response.headers, response.read())
            except BaseException as error:
                # A server may close what it finds idle, and is then asked anew.
                idle = self._forget(connection) and used_before
                if not (idle and isinstance(error, ConnectionError)):
                    raise
            else:
                self._give_back(connection)
                return answer

    def close(self) -> None:
        """Close what is open; exchanges on their way fail."""
        with self._lock:
            connections, self._open = self._open, set()
            idle, self._idle = self._idle, []
        for connection in connections.difference(idle):
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits there
        for connection in idle:
            connection.close()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._open, self._idle = set(), []

    def _lend(self) -> HTTPConnection:
        if os.getpid() != self._process:  # forked: the connections are the parent's
            self._start()
        with self._lock:
            if self._idle:
                return self._idle.pop()
            connection = self._kind(self._host, timeout=self._timeout_s)
            self._open.add(connection)
            return connection

    def _give_back(self, connection: HTTPConnection) -> None:
        with self._lock:
            if connection in self._open:
                self._idle.append(connection)
                return
        connection.close()  # `close` came before

    def _forget(self, connection: HTTPConnection) -> bool:
        """Close it; whether it was still one of these."""
        connection.close()
        with self._lock:
            known = connection in self._open
            self._open.discard(connection)
        return known
