"""Ports on 127.0.0.1: free ones, and the ones asked for."""

from __future__ import annotations

import random
import socket

from aesthetic_serve.errors import PortError
from aesthetic_serve.launcher import LOOPBACK, Ports

# Below the range from which the kernel takes ports for outgoing connections (32768 and up): a
# restart needs the same port again, and nobody must have borrowed it meanwhile.
FREE_RANGE = range(20000, 32000)
TRIES = 200


def choose_ports(grpc: int | None, http: int | None, metrics: int | None) -> Ports:
    """The given ports, checked to be free, and free ones for None. Raises PortError."""
    asked = {"grpc": grpc, "http": http, "metrics": metrics}
    taken: set[int] = set()
    for kind, port in asked.items():
        if port is None:
            continue
        if port in taken:
            raise PortError(f"port {port} is given twice; choose another --{kind}-port")
        if not _is_free(port):
            raise PortError(
                f"port {port} is in use; stop what listens there, or choose another with "
                f"--{kind}-port"
            )
        taken.add(port)
    chosen = {}
    for kind, port in asked.items():
        chosen[kind] = port if port is not None else _free_port(taken)
        taken.add(chosen[kind])
    return Ports(**chosen)


def _free_port(taken: set[int]) -> int:
    for port in random.sample(FREE_RANGE, TRIES):
        if port not in taken and _is_free(port):
            return port
    raise PortError(f"no free port found between {FREE_RANGE.start} and {FREE_RANGE.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port that only waits out an earlier connection counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except (OSError, OverflowError):
            return False
    return True
