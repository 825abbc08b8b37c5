"""What does the client cost? Requests as fast as a server that answers at once takes them.

Run from the repository's root: `python benchmarks/client_cost.py`. Nothing else should run
meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aesthetic_bench import client_cases, client_tables
from aesthetic_bench.client_cases import Settings
from aesthetic_bench.command import run_printed

RESULTS = Path(__file__).parent / "results" / "client-cpu.json"


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them. 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=Settings.seconds, metavar="S")
    parser.add_argument("--rounds", type=int, default=Settings.rounds, metavar="N")
    parser.add_argument(
        "--in-flight", type=int, default=Settings.in_flight, metavar="N", help="requests at a time"
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s"
    )
    given = parser.parse_args(arguments)
    if not (given.seconds > 0 and given.rounds > 0 and given.in_flight > 0):
        parser.error("--seconds, --rounds and --in-flight must be above 0")
    settings = Settings(given.seconds, given.rounds, given.in_flight)
    return run_printed(
        lambda say: client_cases.run(settings, say), given.output, client_tables.markdown
    )


if __name__ == "__main__":
    sys.exit(main())
