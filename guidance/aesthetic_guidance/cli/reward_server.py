"""`aesthetic guide reward-server`: JSON over HTTP for trainers that want a reward that way."""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType
from typing import Any

from aesthetic_client._core import DEFAULT_IN_FLIGHT, DEFAULT_TIMEOUT_S
from aesthetic_client.cli import load_room
from aesthetic_client.cli._server import (
    add_started_arguments,
    check_started_arguments,
    served_url,
)
from aesthetic_client.client import Client
from aesthetic_client.contract import SEEDED_WEIGHTS
from aesthetic_client.errors import InputError
from aesthetic_client.pixels import warm_up

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080
DEFAULT_MAX_BODY_MIB = 128
STOP_S = 30  # seconds; for requests on their way, when the server is told to stop


class _Stopped(BaseException):
    """SIGTERM or SIGINT came."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url", help="a running Triton: grpc://host:8001 or http://host:8000; else one is started"
    )
    add_started_arguments(parser)
    parser.add_argument(
        "--host",
        default=DEFAULT_HOST,
        help="address to listen on (default: %(default)s); there are no keys: keep it private",
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--decode",
        choices=("server", "client"),
        default="server",
        help="where files are decoded: on Triton's machine or on this one (default: server)",
    )
    parser.add_argument(
        "--in-flight",
        type=int,
        default=DEFAULT_IN_FLIGHT,
        metavar="N",
        help="images on their way to Triton at once, of all requests (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="S",
        help="seconds for one image, Triton's queue included (default: %(default)g)",
    )
    parser.add_argument(
        "--max-body-mib",
        type=int,
        default=DEFAULT_MAX_BODY_MIB,
        metavar="N",
        help="largest request body (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean stop, which lets requests finish."""
    for option in ("in_flight", "max_body_mib", "timeout"):
        if getattr(arguments, option) <= 0:
            raise InputError(f"--{option.replace('_', '-')} takes a number above 0")
    check_started_arguments(arguments)
    uvicorn = load_room("uvicorn", "reward")
    service = load_room("aesthetic_guidance.reward_service", "reward")
    with contextlib.suppress(_Stopped), _stop_signals():
        _serve(arguments, uvicorn, service)
    return 0


def _serve(arguments: argparse.Namespace, uvicorn: ModuleType, service: ModuleType) -> None:
    """Until a signal comes, which uvicorn raises again when requests have finished."""
    if arguments.decode == "client":
        _warm_up()
    started = nullcontext(arguments.url) if arguments.url else served_url(arguments)
    with _listening(arguments.host, arguments.port) as listener, started as url:
        settings = service.Settings(
            url,
            arguments.decode,
            arguments.in_flight,
            arguments.timeout,
            arguments.max_body_mib << 20,
        )
        config = uvicorn.Config(
            service.reward_app(settings),
            log_level="warning",
            lifespan="on",
            timeout_graceful_shutdown=STOP_S,
        )
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"rewards at http://{shown}:{port}/score, scored by {url}", flush=True)
        _warn(url, arguments.timeout)
        uvicorn.Server(config).run(sockets=[listener])


def _warm_up() -> None:
    """Compile now what the first image would wait for; say where it cannot be."""
    if unused := warm_up():
        print(
            f"large images are resized by Pillow, slower than numba's kernels ({unused}); "
            "pip install 'aesthetic-triton[kernels]'",
            file=sys.stderr,
        )


def _warn(url: str, timeout_s: float) -> None:
    """Say what is to be known of the server, where it is there already."""
    with Client(url, timeout_s=min(timeout_s, 5.0), retry_s=0) as client:
        if not client.health().ready:
            print(f"WARNING: {url} is not ready; requests get a 503 until it is", file=sys.stderr)
            return
        for model, fields in client.provenance().items():
            if SEEDED_WEIGHTS in str(fields.get("weights", "")):
                print(f"WARNING: {model} has weights: {SEEDED_WEIGHTS}", file=sys.stderr)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens. Raises InputError where it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}:{port}: {error}") from None
    with listener:
        yield listener


@contextlib.contextmanager
def _stop_signals() -> Iterator[None]:
    """Raises _Stopped where a signal asks to stop."""

    def stop(*_: object) -> None:
        raise _Stopped

    before: dict[signal.Signals, Any] = {}
    for name in (signal.SIGTERM, signal.SIGINT):
        before[name] = signal.signal(name, stop)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
