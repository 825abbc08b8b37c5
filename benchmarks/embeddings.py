"""How fast are stored embeddings scored? The heads in numpy, beside a server and a torch loop.

Run from the repository's root: `python benchmarks/embeddings.py`. Nothing else should run
meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aesthetic_bench import embedding_cases, embedding_tables
from aesthetic_bench.command import add_repository, run_printed
from aesthetic_bench.embedding_cases import Settings

RESULTS = Path(__file__).parent / "results" / "embeddings-cpu.json"


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them. 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_repository(parser)
    parser.add_argument(
        "--url", metavar="URL", help="a server of that repository's heads (default: start one)"
    )
    parser.add_argument(
        "--rows", type=int, default=Settings.rows, metavar="N", help="vectors a file"
    )
    parser.add_argument("--seconds", type=float, default=Settings.seconds, metavar="S")
    parser.add_argument("--rounds", type=int, default=Settings.rounds, metavar="N")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s"
    )
    given = parser.parse_args(arguments)
    if not (given.rows > 0 and given.seconds > 0 and given.rounds > 0):
        parser.error("--rows, --seconds and --rounds must be above 0")
    repository = given.repository.expanduser()
    settings = Settings(repository, given.url, given.rows, given.seconds, given.rounds)
    return run_printed(
        lambda say: embedding_cases.run(settings, say), given.output, embedding_tables.markdown
    )


if __name__ == "__main__":
    sys.exit(main())
