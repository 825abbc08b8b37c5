"""What does a gradient to the pixels cost, served and by torch's autograd in this process?

Run from the repository's root, on a repository that was exported `--with gradient`:
`python benchmarks/gradient.py`. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aesthetic_bench import gradient_cases, gradient_tables
from aesthetic_bench.command import add_repository, run_printed
from aesthetic_bench.gradient_cases import Settings

RESULTS = Path(__file__).parent / "results" / "gradient-cpu.json"


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them. 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_repository(parser)
    parser.add_argument(
        "--url", metavar="URL", help="a server of that repository's gradients (default: start one)"
    )
    parser.add_argument("--weights", metavar="FILE", help="the served tower's, where not seeded")
    parser.add_argument(
        "--factory", metavar="MODULE:FUNCTION", help="what makes the served tower instead"
    )
    parser.add_argument("--side", type=int, default=Settings.side, metavar="PIXELS")
    parser.add_argument("--rounds", type=int, default=Settings.rounds, metavar="N")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s"
    )
    given = parser.parse_args(arguments)
    if not (given.side > 0 and given.rounds > 0):
        parser.error("--side and --rounds must be above 0")
    settings = Settings(
        given.repository.expanduser(),
        given.url,
        given.weights,
        given.factory,
        given.side,
        given.rounds,
    )
    return run_printed(
        lambda say: gradient_cases.run(settings, say), given.output, gradient_tables.markdown
    )


if __name__ == "__main__":
    sys.exit(main())
