"""How fast is the server? perf_analyzer on it, beside the bare engine and an open_clip loop.

Run from the repository's root: `python benchmarks/serving.py`. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from aesthetic_bench.errors import BenchError
from aesthetic_bench.settings import (
    FULL_CONCURRENCY,
    FULL_SECONDS,
    QUICK_CONCURRENCY,
    QUICK_SECONDS,
    Settings,
    parse_concurrency,
)
from rich.console import Console

from aesthetic_client.errors import AestheticError
from aesthetic_client.paths import default_repository

RESULTS = Path(__file__).parent / "results" / "serving-cpu.json"


def parse(arguments: list[str] | None = None) -> tuple[Settings, Path]:
    """The run's settings and the file for its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--repository",
        type=Path,
        default=default_repository(),
        metavar="DIR",
        help="model repository, as `aesthetic export` builds it (default: where it does so)",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="images to send (default: made-up photographs)"
    )
    parser.add_argument(
        "--perf-analyzer", type=Path, metavar="PATH", help="another one than tritonclient's"
    )
    parser.add_argument(
        "--concurrency",
        type=_concurrency,
        metavar="FIRST:LAST",
        help="requests in flight: 1:16 doubles from 1 to 16 (default), 1,8,16 is a list",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        metavar="S",
        help=f"aim at this for each case (default: {FULL_SECONDS:g}, {QUICK_SECONDS:g} if quick)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a third of the time; to look, not to claim"
    )
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="the torch loop's weights where the served ones are not seeded:N; as `aesthetic "
        "export --weights` takes them",
    )
    parser.add_argument(
        "--tower",
        metavar="MODULE:FUNCTION",
        help="the torch loop's tower by a Python function, for towers that nobody published",
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s"
    )
    given = parser.parse_args(arguments)
    settings = Settings(
        repository=given.repository.expanduser(),
        images=given.images,
        perf_analyzer=given.perf_analyzer,
        concurrency=given.concurrency or (QUICK_CONCURRENCY if given.quick else FULL_CONCURRENCY),
        seconds=given.seconds or (QUICK_SECONDS if given.quick else FULL_SECONDS),
        quick=given.quick,
        weights=given.weights,
        tower=given.tower,
    )
    return settings, given.output


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them. 0, or 1 with the reason on stderr."""
    settings, output = parse(arguments)
    from aesthetic_bench import run, tables

    # A terminated benchmark ends its server and its children as an interrupted one does.
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(stderr=True, highlight=False)
    begin = time.monotonic()
    try:
        with console.status("starting") as status:

            def say(text: str) -> None:
                console.print(f"{time.monotonic() - begin:5.0f} s  {text}", markup=False)
                status.update(text)

            record = run.run(settings, say)
    except (BenchError, AestheticError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was written")
        return 130
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    shown = Console(highlight=False)
    for line in tables.introduction(record):
        shown.print(line, markup=False, soft_wrap=True)
    for table in tables.rich_tables(record):
        shown.print(table)
    shown.print(f"written to {output}", markup=False, soft_wrap=True)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _concurrency(text: str) -> tuple[int, ...]:
    try:
        return parse_concurrency(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text} is no time to measure for")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
