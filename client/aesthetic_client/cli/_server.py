"""The server that a command line talks to: the one at --url, or one started for the run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from aesthetic_client import contract
from aesthetic_client._core import DEFAULT_IN_FLIGHT, DEFAULT_RETRY_S, DEFAULT_TIMEOUT_S
from aesthetic_client.cli import load_room
from aesthetic_client.cli._show import status
from aesthetic_client.client import Client
from aesthetic_client.errors import InputError
from aesthetic_client.paths import default_repository

STARTED_OPTIONS = ("repository", "profile")


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which server, and how to use it."""
    parser.add_argument(
        "--url", help="a running server: grpc://host:8001 or http://host:8000; else one is started"
    )
    add_started_arguments(parser)
    parser.add_argument(
        "--decode",
        choices=("server", "client"),
        default="server",
        help="where files are decoded (default: server)",
    )
    parser.add_argument(
        "--in-flight",
        type=int,
        default=DEFAULT_IN_FLIGHT,
        metavar="N",
        help=f"images on their way at once (default: {DEFAULT_IN_FLIGHT})",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="S",
        help=f"seconds for one image, the queue included (default: {DEFAULT_TIMEOUT_S:g})",
    )


def add_started_arguments(
    parser: argparse.ArgumentParser, repository_for: str = "the started server"
) -> None:
    """The options of the server that is started where no --url names one."""
    parser.add_argument(
        "--repository",
        type=Path,
        help=f"model repository for {repository_for} (default: {default_repository()})",
    )
    parser.add_argument(
        "--profile",
        choices=tuple(contract.CPU_PROFILES),
        help="precision of the started server's image tower (see aesthetic serve; default: fp32)",
    )


def check_started_arguments(arguments: argparse.Namespace) -> None:
    """Raises InputError for an option of `add_started_arguments` beside --url."""
    for option in STARTED_OPTIONS if arguments.url else ():
        if getattr(arguments, option):
            raise InputError(f"--{option} is for a started server; --url names a running one")


@contextmanager
def connected(arguments: argparse.Namespace) -> Iterator[Client]:
    """A client of the server that the arguments mean; a server started for it is stopped after."""
    check_started_arguments(arguments)
    with (
        nullcontext(arguments.url) if arguments.url else served_url(arguments) as url,
        _client(arguments, url) as client,
    ):
        _warn_if_meaningless(client)
        yield client


@contextmanager
def served_url(arguments: argparse.Namespace) -> Iterator[str]:
    """The address of a server started over --repository in its --profile; stopped after."""
    serve = load_room("aesthetic_serve", "serve")
    profile = arguments.profile
    server = serve.EmbeddedServer(
        arguments.repository or default_repository(),
        config_name=contract.CPU_PROFILES[profile].name if profile else None,
    )
    with status("starting Triton (or give --url of a running server)"):
        server.start()
    try:
        yield server.grpc_url
    finally:
        server.stop(grace_s=0)  # nothing of ours is on its way any more


def _client(arguments: argparse.Namespace, url: str) -> Client:
    return Client(
        url, decode=arguments.decode, timeout_s=arguments.timeout, retry_s=DEFAULT_RETRY_S
    )


def _warn_if_meaningless(client: Client) -> None:
    for model, fields in client.provenance().items():
        if contract.SEEDED_WEIGHTS in str(fields.get("weights", "")):
            print(f"WARNING: {model} has weights: {contract.SEEDED_WEIGHTS}", file=sys.stderr)
