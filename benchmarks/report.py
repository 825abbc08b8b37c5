"""A results file as Markdown, or into README: `python benchmarks/report.py RESULTS.json`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

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
    parser.add_argument(
        "file", nargs="+", type=Path, help="of any benchmark here; several are serving.py's"
    )
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="of engines.py and serving.py: put what it shows between the marks of FILE",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="of engines.py: write the plot (SVG) anew"
    )
    given = parser.parse_args(arguments)
    records = [_read(parser, file) for file in given.file]
    shown = {KINDS.get(record.get("kind", ""), tables) for record in records}
    if given.plot or len(records) > 1 or given.readme:
        _check(parser, given, shown)
    if given.plot:
        given.plot.write_text(engine_plot.svg(records[0]), "utf-8")
    if given.readme:
        if shown == {engine_tables}:
            block, marks = engine_tables.readme_block(records[0]), engine_tables.MARKS
        else:
            block, marks = tables.readme_block(records), tables.README_MARKS
        text = tables.with_readme_block(given.readme.read_text("utf-8"), block, marks)
        if text is None:
            parser.exit(1, f"{given.readme} lacks the marks {' and '.join(marks)}\n")
        given.readme.write_text(text, "utf-8")
    elif not given.plot:
        (module,) = shown
        print(module.markdown(records[0]), end="")
    return 0


def _read(parser: argparse.ArgumentParser, file: Path) -> Any:
    try:
        record = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{file}: {error}\n")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        parser.exit(1, f"{file} is no results file of this version's benchmarks\n")
    return record


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace, shown: set[Any]) -> None:
    """What README and the plot are made of."""
    names = " and ".join(map(str, given.file))
    if shown == {tables} and given.readme and not given.plot:
        return
    if shown != {engine_tables} or len(given.file) > 1:
        parser.exit(1, f"{names} is not of engines.py, nor, for README, of serving.py\n")


if __name__ == "__main__":
    sys.exit(main())
