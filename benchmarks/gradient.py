"""What does a gradient to the pixels cost, served and by torch's autograd in this process?

Run from the repository's root, on a repository that was exported `--with gradient`:
`python benchmarks/gradient.py`. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from aesthetic_bench import gradient_cases, gradient_tables
from aesthetic_bench.errors import BenchError
from aesthetic_bench.gradient_cases import Settings

from aesthetic_client.errors import AestheticError
from aesthetic_client.paths import default_repository

RESULTS = Path(__file__).parent / "results" / "gradient-cpu.json"


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them. 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--repository",
        type=Path,
        default=default_repository(),
        metavar="DIR",
        help="model repository, as `aesthetic export` builds it (default: where it does so)",
    )
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
    try:
        record = gradient_cases.run(settings, lambda text: print(text, file=sys.stderr, flush=True))
    except (BenchError, AestheticError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print(gradient_tables.markdown(record), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
