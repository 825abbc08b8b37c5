"""Print a results file as Markdown: `python benchmarks/report.py benchmarks/results/FILE.json`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from aesthetic_bench import client_tables, embedding_tables, gradient_tables, tables
from aesthetic_bench.settings import SCHEMA


def main(arguments: list[str] | None = None) -> int:
    """The tables of one file on stdout; README's come from here, never from a keyboard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="of any benchmark here that writes one")
    given = parser.parse_args(arguments)
    try:
        record = json.loads(given.file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{given.file}: {error}\n")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        parser.exit(1, f"{given.file} is no results file of this version's benchmarks\n")
    kinds = {m.KIND: m for m in (client_tables, embedding_tables, gradient_tables)}
    shown = kinds.get(record.get("kind", ""), tables)
    print(shown.markdown(record), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
