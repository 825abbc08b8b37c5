"""What the commands that run a whole benchmark share: their options, and how a run is shown."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from aesthetic_client.errors import AestheticError
from aesthetic_client.paths import default_repository

from . import tables
from .errors import BenchError

Say = Callable[[str], None]
INTERRUPTED = 130  # as a shell reports it
FILE_WIDTH = 200


def add_repository(parser: argparse.ArgumentParser) -> None:
    """What is served."""
    parser.add_argument(
        "--repository",
        type=Path,
        default=default_repository(),
        metavar="DIR",
        help="model repository, as `aesthetic export` builds it (default: where it does so)",
    )


def add_options(parser: argparse.ArgumentParser, results: Path) -> None:
    """The repository, what is sent, the torch tower, and where the results go."""
    add_repository(parser)
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="images to send (default: made-up photographs)"
    )
    parser.add_argument(
        "--perf-analyzer", type=Path, metavar="PATH", help="another one than tritonclient's"
    )
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="torch's weights where the served ones are not seeded:N; as `aesthetic export "
        "--weights` takes them",
    )
    parser.add_argument(
        "--tower",
        metavar="MODULE:FUNCTION",
        help="torch's tower by a Python function, for towers that nobody published",
    )
    parser.add_argument(
        "--output", type=Path, default=results, metavar="FILE", help="default: %(default)s"
    )


def run_shown(
    measure: Callable[[Say], dict[str, Any]],
    output: Path,
    show: Callable[[dict[str, Any]], tuple[list[str], list[tables.Table]]],
) -> int:
    """Measure, write the results, show them. 0, or 1 with the reason on stderr."""
    # A terminated benchmark ends its server and its children as an interrupted one does.
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(stderr=True, highlight=False)
    begin = time.monotonic()
    try:
        with console.status("starting") as status:

            def say(text: str) -> None:
                console.print(f"{time.monotonic() - begin:5.0f} s  {text}", markup=False)
                status.update(text)

            record = measure(say)
    except (BenchError, AestheticError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was written")
        return INTERRUPTED
    _write(record, output)
    lines, found = show(record)
    # A file has no width of its own; a table cut to 80 columns would say nothing.
    shown = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    for line in lines:
        shown.print(line, markup=False, soft_wrap=True)
    for table in tables.rich_tables(found):
        shown.print(table)
    shown.print(f"written to {output}", markup=False, soft_wrap=True)
    return 0


def run_printed(
    measure: Callable[[Say], dict[str, Any]],
    output: Path,
    markdown: Callable[[dict[str, Any]], str],
) -> int:
    """`run_shown` without a terminal's help: progress by the line, and the tables as Markdown."""
    try:
        record = measure(lambda text: print(text, file=sys.stderr, flush=True))
    except (BenchError, AestheticError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _write(record, output)
    print(markdown(record), end="")
    return 0


def _write(record: dict[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def positive_seconds(text: str) -> float:
    """An argument in seconds."""
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text} is no time to measure for")
    return seconds
