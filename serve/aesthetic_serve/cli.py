"""`aesthetic serve`: Triton on this machine, supervised, until it is told to stop."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from rich.console import Console

from aesthetic_client import contract
from aesthetic_client.paths import default_repository
from aesthetic_serve.profiles import slow_here
from aesthetic_serve.server import START_TIMEOUT_S, EmbeddedServer

GRPC_PORT, HTTP_PORT, METRICS_PORT = 8001, 8000, 8002  # Triton's own defaults
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _StopRequested(BaseException):
    """SIGTERM or SIGINT came; not an Exception, so that no handler on the way swallows it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `aesthetic serve`."""
    parser.add_argument(
        "--repository",
        type=Path,
        default=default_repository(),
        help="model repository, as `aesthetic export` builds it (default: %(default)s)",
    )
    for name, port in (("grpc", GRPC_PORT), ("http", HTTP_PORT), ("metrics", METRICS_PORT)):
        parser.add_argument(
            f"--{name}-port",
            type=_port,
            default=port,
            metavar="PORT",
            help=f"{name} port on 127.0.0.1 (default: %(default)s)",
        )
    parser.add_argument(
        "--log-file", type=Path, help="keep Triton's log here (default: a temporary file)"
    )
    parser.add_argument(
        "--start-timeout",
        type=float,
        default=START_TIMEOUT_S,
        metavar="S",
        help="seconds until the first score (default: %(default)g)",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--profile",
        choices=tuple(contract.CPU_PROFILES),
        help="the image tower's precision: fp32 (the default), or, once `aesthetic export "
        "--precision` has added them, bf16 or int8, which are faster and a little off",
    )
    chosen.add_argument(
        "--config-name",
        metavar="NAME",
        help="use each model's configs/NAME.pbtxt over its config.pbtxt",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean stop. Raises a ServeError where it cannot."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    _report_restarts()
    profile = contract.CPU_PROFILES[arguments.profile] if arguments.profile else None
    server = EmbeddedServer(
        arguments.repository,
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        metrics_port=arguments.metrics_port,
        log_file=arguments.log_file,
        start_timeout_s=arguments.start_timeout,
        config_name=profile.name if profile else arguments.config_name,
    )
    with _stop_signals():
        try:
            with console.status("starting Triton"):
                server.start()
            print(_introduction(server), flush=True)
            server.wait()
        except _StopRequested:
            print("stopping", file=sys.stderr)
        finally:
            _ignore_stop_signals()  # stopping takes a few seconds at most; let it finish
            server.stop()
    return 0


def _introduction(server: EmbeddedServer) -> str:
    lines = [
        "Triton is ready, on this machine only:",
        f"  gRPC     {server.grpc_url}",
        f"  HTTP     {server.http_url}",
        f"  metrics  {server.metrics_url}",
    ]
    lines += _weights(server)
    if contract.AESTHETIC.name in server.models:
        lines.append(f"Try:  aesthetic score photo.jpg --url {server.grpc_url}")
    return "\n".join([*lines, "Ctrl-C stops it."])


def _weights(server: EmbeddedServer) -> Iterator[str]:
    """What the served numbers come from, a line a model that says so."""
    for model in (contract.CLIP_IMAGE.name, contract.AESTHETIC_HEADS.name):
        provenance = server.provenance(model)
        weights, sha256 = provenance.get("weights", ""), provenance.get("weights_sha256", "null")
        if contract.SEEDED_WEIGHTS in weights:
            yield f"WARNING: {model} has weights: {contract.SEEDED_WEIGHTS}"
        elif weights:
            yield f"  {model}: {weights}" + (f", sha256 {sha256[:12]}" if sha256 != "null" else "")
        yield from _precision(model, provenance)


def _precision(model: str, provenance: Mapping[str, str]) -> Iterator[str]:
    """How far a faster profile was off when it was exported, and whether it is faster here."""
    precision = provenance.get("precision", "")
    if precision not in contract.CPU_PROFILES or not contract.CPU_PROFILES[precision].name:
        return
    parity = json.loads(provenance.get("parity", "{}"))
    score = parity.get("scores", {}).get(contract.DEFAULT_HEAD.name, {})
    off = ""
    if "max" in score:
        off = (
            f": scores within {score['max']:.2g} of fp32's, {score['mean']:.2g} on average, "
            f"over {parity['items']} {parity['inputs']}"
        )
    yield f"  {model} is {precision}{off}"
    if reason := slow_here(precision):
        yield f"WARNING: {reason}"


def _report_restarts() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("aesthetic_serve")
    logger.addHandler(handler)
    logger.propagate = False


@contextlib.contextmanager
def _stop_signals() -> Iterator[None]:
    """Inside, a stop signal raises _StopRequested in the main thread."""

    def request_stop(number: int, frame: FrameType | None) -> None:
        raise _StopRequested

    before = {number: signal.signal(number, request_stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_stop_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port")
    return port
