"""How fast is the server? perf_analyzer on it, beside the bare engine and an open_clip loop.

Run from the repository's root: `python benchmarks/serving.py`. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aesthetic_bench.command import add_options, positive_seconds, run_shown
from aesthetic_bench.settings import (
    FULL_CONCURRENCY,
    FULL_SECONDS,
    QUICK_CONCURRENCY,
    QUICK_SECONDS,
    Settings,
    parse_concurrency,
)

from aesthetic_client import contract

RESULTS = Path(__file__).parent / "results" / "serving-cpu.json"
FP32 = contract.DEFAULT_PROFILE.precision


def parse(arguments: list[str] | None = None) -> tuple[Settings, Path]:
    """The run's settings and the file for its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, RESULTS)
    parser.add_argument(
        "--profile",
        choices=tuple(contract.CPU_PROFILES),
        default=FP32,
        help="the tower's precision (default: %(default)s); another one's results go to "
        f"{RESULTS.stem}-PROFILE.json",
    )
    parser.add_argument(
        "--concurrency",
        type=_concurrency,
        metavar="FIRST:LAST",
        help="requests in flight: 1:16 doubles from 1 to 16 (default), 1,8,16 is a list",
    )
    parser.add_argument(
        "--seconds",
        type=positive_seconds,
        metavar="S",
        help=f"aim at this for each case (default: {FULL_SECONDS:g}, {QUICK_SECONDS:g} if quick)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a third of the time; to look, not to claim"
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
        profile=contract.CPU_PROFILES[given.profile],
    )
    output: Path = given.output
    if output == RESULTS and given.profile != FP32:
        output = RESULTS.with_stem(f"{RESULTS.stem}-{given.profile}")
    return settings, output


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them. 0, or 1 with the reason on stderr."""
    settings, output = parse(arguments)
    from aesthetic_bench import run, tables

    return run_shown(
        lambda say: run.run(settings, say),
        output,
        lambda record: (tables.introduction(record), tables.tables(record)),
    )


def _concurrency(text: str) -> tuple[int, ...]:
    try:
        return parse_concurrency(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
