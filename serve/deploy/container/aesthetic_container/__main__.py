"""`python3 -m aesthetic_container serve | check | canary`: the container's commands."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence

from aesthetic_client.plans import this_machine
from aesthetic_container import canary, flags, preflight
from aesthetic_container.settings import Settings, SettingsError, settings_from

PROGRAM = "tritonserver"
HTTP_PORT, METRICS_PORT = 8000, 8002
CANARY_S = 20.0
WAIT_STEP_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0, or 1 with a sentence on stderr; `serve` becomes tritonserver."""
    parsed, rest = _parser().parse_known_args(arguments)
    if rest and parsed.command != "serve":
        _parser().error(f"unknown arguments: {' '.join(rest)}")
    try:
        if parsed.command == "canary":
            print(canary.check_health(parsed.http_port, parsed.metrics_port, parsed.timeout))
        elif parsed.command == "check":
            wait_for_files(settings_from(os.environ), parsed.wait)
            print("the model repository is complete")
        else:
            serve(settings_from(os.environ), rest)
    except (SettingsError, preflight.PreflightError, canary.UnhealthyError) as error:
        print(f"{parsed.command}: {error}", file=sys.stderr)
        return 1
    return 0


def serve(settings: Settings, more: Sequence[str] = ()) -> None:
    """Check, warn, and become tritonserver; `more` are flags of the caller's, which win."""
    preflight.check_files(settings)
    preflight.check_machine(settings, this_machine())
    preflight.check_tls(settings)
    for warning in preflight.warnings(settings):
        print(f"WARNING: {warning}", file=sys.stderr)
    sys.stderr.flush()
    os.execvp(PROGRAM, [PROGRAM, *flags.triton_flags(settings), *more])


def wait_for_files(
    settings: Settings, wait_s: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Until the export job has filled the repository. Raises PreflightError after `wait_s`."""
    end = time.monotonic() + wait_s
    while True:
        try:
            return preflight.check_files(settings)
        except preflight.PreflightError as error:
            if time.monotonic() >= end:
                raise
            print(f"waiting: {error}", file=sys.stderr, flush=True)
        sleep(WAIT_STEP_S)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aesthetic_container", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "serve", help="check, then become tritonserver; further arguments are its own"
    )
    check = commands.add_parser("check", help="is the model repository complete?")
    check.add_argument("--wait", type=float, default=0.0, metavar="S", help="up to S seconds")
    probe = commands.add_parser("canary", help="does the server in this container score?")
    probe.add_argument("--http-port", type=int, default=HTTP_PORT)
    probe.add_argument("--metrics-port", type=int, default=METRICS_PORT)
    probe.add_argument("--timeout", type=float, default=CANARY_S, metavar="S")
    return parser


if __name__ == "__main__":
    sys.exit(main())
