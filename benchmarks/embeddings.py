"""How fast are stored embeddings scored? The heads in numpy, beside a server and a torch loop.

Run from the repository's root: `python benchmarks/embeddings.py`. Nothing else should run
meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from aesthetic_bench import embedding_cases, embedding_tables
from aesthetic_bench.embedding_cases import Settings
from aesthetic_bench.errors import BenchError

from aesthetic_client.errors import AestheticError
from aesthetic_client.paths import default_repository

RESULTS = Path(__file__).parent / "results" / "embeddings-cpu.json"


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
    try:
        record = embedding_cases.run(
            settings, lambda text: print(text, file=sys.stderr, flush=True)
        )
    except (BenchError, AestheticError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print(embedding_tables.markdown(record), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
