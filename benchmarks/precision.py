"""What does precision cost? Speed and score drift of the tower in many precisions, as one frontier.

Run from the repository's root: `python benchmarks/precision.py --images DIR --heads DIR`. Nothing
else should run meanwhile; it takes about half an hour and 8 GB.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from aesthetic_bench import precision_plot, precision_tables
from aesthetic_bench.command import run_printed
from aesthetic_bench.precision_cases import CASES, TOWERS, Settings, run

RESULTS = Path(__file__).parent / "results" / "precision-cpu.json"


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results and the plot, show the tables. 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="photographs: every third calibrates, the others are compared (default: made up)",
    )
    parser.add_argument(
        "--heads",
        type=Path,
        metavar="DIR",
        help="the published heads' files (default: heads of random weights)",
    )
    parser.add_argument("--towers", nargs="+", choices=TOWERS, default=list(TOWERS))
    parser.add_argument(
        "--cases", nargs="+", choices=[case.name for case in CASES], metavar="NAME", help="only so"
    )
    parser.add_argument("--rounds", type=int, default=Settings.rounds, metavar="N")
    parser.add_argument(
        "--tiny", action="store_true", help="towers of two narrow layers; to try the script"
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s"
    )
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error("--rounds must be above 0")
    names = tuple(given.cases or (case.name for case in CASES))
    settings = Settings(
        given.images, given.heads, tuple(given.towers), names, given.rounds, given.tiny
    )

    def markdown(record: dict[str, Any]) -> str:
        precision_plot.write(record, given.output.with_suffix(".svg"))
        return precision_tables.markdown(record)

    return run_printed(lambda say: run(settings, say), given.output, markdown)


if __name__ == "__main__":
    sys.exit(main())
