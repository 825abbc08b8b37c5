"""How fast does one worker feed a server, and is its memory flat over 100,000 samples?

Run from the repository's root: `python benchmarks/curation.py`. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aesthetic_bench import curation_cases, curation_tables
from aesthetic_bench.command import run_printed
from aesthetic_bench.curation_cases import Settings

RESULTS = Path(__file__).parent / "results" / "curation-cpu.json"


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them. 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, text in (
        ("samples", "in the data set"),
        ("samples_per_shard", "in a tar"),
        ("workers", "processes of the command"),
        ("in_flight", "images a worker has on their way"),
    ):
        option, default = f"--{name.replace('_', '-')}", getattr(Settings, name)
        parser.add_argument(
            option, type=int, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s"
    )
    given = vars(parser.parse_args(arguments))
    output: Path = given.pop("output")
    if min(given.values()) < 1:
        parser.error("numbers must be above 0")
    settings = Settings(**given)
    return run_printed(
        lambda say: curation_cases.run(settings, say), output, curation_tables.markdown
    )


if __name__ == "__main__":
    sys.exit(main())
