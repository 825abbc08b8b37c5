"""A results file as Markdown, or into README: `python benchmarks/report.py RESULTS.json`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from aesthetic_bench import (
    client_tables,
    curation_tables,
    embedding_tables,
    engine_plot,
    engine_tables,
    gradient_tables,
    latency_tables,
    precision_tables,
    preprocessing_tables,
    start_tables,
    tables,
)
from aesthetic_bench.settings import SCHEMA

KINDS = {
    module.KIND: module
    for module in (
        client_tables,
        curation_tables,
        embedding_tables,
        engine_tables,
        gradient_tables,
        latency_tables,
        precision_tables,
        preprocessing_tables,
        start_tables,
    )
}


def main(arguments: list[str] | None = None) -> int:
    """The tables of one file on stdout; README's come from here, never from a keyboard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="of any benchmark here that writes one")
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="of engines.py: put plot and table between the marks of FILE",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="of engines.py: write the plot (SVG) anew"
    )
    given = parser.parse_args(arguments)
    try:
        record = json.loads(given.file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{given.file}: {error}\n")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        parser.exit(1, f"{given.file} is no results file of this version's benchmarks\n")
    shown = KINDS.get(record.get("kind", ""), tables)
    if (given.readme or given.plot) and shown is not engine_tables:
        parser.exit(1, f"{given.file} is not of engines.py\n")
    if given.plot:
        given.plot.write_text(engine_plot.svg(record), "utf-8")
    if given.readme:
        text = engine_tables.with_readme_block(given.readme.read_text("utf-8"), record)
        if text is None:
            parser.exit(1, f"{given.readme} lacks the marks {' and '.join(engine_tables.MARKS)}\n")
        given.readme.write_text(text, "utf-8")
    elif not given.plot:
        print(shown.markdown(record), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
