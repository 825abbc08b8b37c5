"""What does the client cost? Requests as fast as a server that answers at once takes them.

Run from the repository's root: `python benchmarks/client_cost.py`. Nothing else should run
meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from aesthetic_bench import client_cases, client_tables
from aesthetic_bench.client_cases import Settings

RESULTS = Path(__file__).parent / "results" / "client-cpu.json"


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them."""
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
    record = client_cases.run(settings, lambda text: print(text, file=sys.stderr, flush=True))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print(client_tables.markdown(record), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
