"""How long from `aesthetic serve` to the first score? And where do the seconds go?

Run from the repository's root: `python benchmarks/start.py`. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aesthetic_bench.command import add_repository, run_shown
from aesthetic_bench.start_cases import StartSettings, run
from aesthetic_bench.start_tables import introduction, tables

from aesthetic_client import contract

RESULTS = Path(__file__).parent / "results" / "start-cpu.json"


def parse(arguments: list[str] | None = None) -> tuple[StartSettings, Path]:
    """The run's settings and the file for its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_repository(parser)
    parser.add_argument(
        "--profile", action="append", choices=tuple(contract.CPU_PROFILES), metavar="NAME",
        help="may be given more than once (default: those in the repository)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=StartSettings.rounds, metavar="N")
    parser.add_argument(
        "--cold", action="store_true", help="also with the models out of the page cache"
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s"
    )
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error("--rounds must be above 0")
    profiles = tuple(given.profile or ())
    repository = given.repository.expanduser()
    return StartSettings(repository, profiles, given.rounds, given.cold), given.output


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them. 0, or 1 with the reason on stderr."""
    settings, output = parse(arguments)
    return run_shown(
        lambda say: run(settings, say),
        output,
        lambda record: (introduction(record), tables(record)),
    )


if __name__ == "__main__":
    sys.exit(main())
