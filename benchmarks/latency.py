"""What does serving add to a single image's time? A warm idle server, stage by stage.

Run from the repository's root: `python benchmarks/latency.py`. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aesthetic_bench.command import add_repository, run_shown
from aesthetic_bench.latency_cases import LatencySettings, run
from aesthetic_bench.latency_tables import introduction, tables

from aesthetic_client import contract

RESULTS = Path(__file__).parent / "results"


def parse(arguments: list[str] | None = None) -> tuple[LatencySettings, Path]:
    """The run's settings and the file for its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_repository(parser)
    parser.add_argument(
        "--profile",
        choices=tuple(contract.CPU_PROFILES),
        default=contract.DEFAULT_PROFILE.precision,
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="images to send (default: made-up photographs)"
    )
    parser.add_argument("--turns", type=_positive, default=LatencySettings.turns, metavar="N")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"default: {RESULTS.name}/latency-PROFILE.json"
    )
    given = parser.parse_args(arguments)
    settings = LatencySettings(
        repository=given.repository.expanduser(),
        profile=contract.CPU_PROFILES[given.profile],
        images=given.images,
        turns=given.turns,
    )
    return settings, given.output or RESULTS / f"latency-{given.profile}.json"


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them. 0, or 1 with the reason on stderr."""
    settings, output = parse(arguments)
    return run_shown(
        lambda say: run(settings, say),
        output,
        lambda record: (introduction(record), tables(record)),
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
