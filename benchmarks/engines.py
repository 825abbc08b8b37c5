"""Which engine runs the tower fastest on this CPU, at what price in score, memory and loading?

What users would write themselves, every profile's bare engine, and Triton in every profile, turn
by turn in one run. Run from the repository's root: `python benchmarks/engines.py`; some twelve
minutes on two cores, 18 GiB of memory. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aesthetic_bench.command import add_options, positive_seconds, run_shown
from aesthetic_bench.engine_kinds import LOADERS
from aesthetic_bench.engine_settings import QUICK, EngineSettings

RESULTS = Path(__file__).parent / "results" / "engines-cpu.json"


def parse(arguments: list[str] | None = None) -> tuple[EngineSettings, Path]:
    """The run's settings and the file for its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, RESULTS)
    parser.add_argument(
        "--rounds", type=_count, metavar="N", help="turns of every row (default: 3, 1 if quick)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_seconds,
        metavar="S",
        help="aim at this for each batch size of a turn, at ten times it for a served case "
        "(default: 1, 0.5 if quick)",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=sorted(LOADERS),
        help="of the engines, torch's and the profiles aside; may be repeated",
    )
    parser.add_argument(
        "--no-served", action="store_true", help="the engines alone, without Triton"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round; to look, not to claim"
    )
    given = parser.parse_args(arguments)
    chosen = {**QUICK} if given.quick else {}
    if given.only:
        chosen["kinds"] = frozenset(given.only)
    if given.rounds:
        chosen["rounds"] = given.rounds
        chosen["served_rounds"] = min(given.rounds, 2)
    if given.seconds:
        chosen["turn_s"], chosen["served_s"] = given.seconds, 10 * given.seconds
    settings = EngineSettings(
        repository=given.repository.expanduser(),
        images=given.images,
        perf_analyzer=given.perf_analyzer,
        weights=given.weights,
        tower=given.tower,
        served=not given.no_served,
        **chosen,
    )
    return settings, given.output


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results and their plot, show them. 0, or 1 with the reason on stderr."""
    settings, output = parse(arguments)
    from aesthetic_bench import engine_plot, engine_run, engine_tables

    def show(record: engine_tables.Record) -> tuple[list[str], list[engine_tables.Table]]:
        output.with_suffix(".svg").write_text(engine_plot.svg(record), "utf-8")
        return engine_tables.introduction(record), engine_tables.tables(record)

    return run_shown(lambda say: engine_run.run(settings, say), output, show)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of rounds")
    return number


if __name__ == "__main__":
    sys.exit(main())
