"""How fast does one worker feed a server, and is its memory flat over 100,000 samples?

Run from the repository's root: `python benchmarks/curation.py`. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from aesthetic_bench import curation_cases
from aesthetic_bench.curation_cases import Settings

RESULTS = Path(__file__).parent / "results" / "curation-cpu.json"


def main(arguments: list[str] | None = None) -> int:
    """Run, write the results, show them."""
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
    record = curation_cases.run(
        Settings(**given), lambda text: print(text, file=sys.stderr, flush=True)
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    memory = record["memory"]
    print(
        f"{record['scored']} samples, {record['samples_per_s']:.0f}/s; processor time a sample "
        f"{record['worker_us_per_sample']:.0f} us here, {record['server_us_per_sample']:.0f} us in "
        f"the server; memory {memory['early_mib']:.0f} MiB early, {memory['late_mib']:.0f} MiB late"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
