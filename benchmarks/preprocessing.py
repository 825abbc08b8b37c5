"""How fast are images prepared? Pillow alone, the exact way and the fast one, by core and threads.

Run from the repository's root: `python benchmarks/preprocessing.py --images FOLDER`. Nothing else
should run meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aesthetic_bench import preprocessing_cases, preprocessing_tables
from aesthetic_bench.command import run_printed
from aesthetic_bench.preprocessing_cases import Settings

RESULTS = Path(__file__).parent / "results" / "preprocessing-cpu.json"


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them. 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="default: made-up pictures")
    parser.add_argument(
        "--megapixels",
        type=lambda text: tuple(float(part) for part in text.split(",")),
        default=Settings.megapixels,
        metavar="LIST",
        help="sizes of the images (default: 1,2,4,8,12)",
    )
    parser.add_argument("--pictures", type=int, default=Settings.pictures, metavar="N")
    parser.add_argument("--seconds", type=float, default=Settings.seconds, metavar="S")
    parser.add_argument("--rounds", type=int, default=Settings.rounds, metavar="N")
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="also compare scores, by this tower, as `aesthetic export --weights` takes it",
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s"
    )
    given = parser.parse_args(arguments)
    if not min(*given.megapixels, given.pictures, given.seconds, given.rounds) > 0:
        parser.error("--megapixels, --pictures, --seconds and --rounds must be above 0")
    settings = Settings(
        given.images,
        given.pictures,
        given.megapixels,
        seconds=given.seconds,
        rounds=given.rounds,
        weights=given.weights,
    )
    return run_printed(
        lambda say: preprocessing_cases.run(settings, say),
        given.output,
        preprocessing_tables.markdown,
    )


if __name__ == "__main__":
    sys.exit(main())
