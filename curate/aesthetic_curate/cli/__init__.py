"""`aesthetic curate`: its subcommands."""

from __future__ import annotations

import argparse
import importlib

COMMANDS = {
    "score": "score a data set, shard by shard, resumably",
    "filter": "a smaller data set: the samples whose scores are high enough",
    "report": "a page that shows the scores of a data set",
    "annotate": "write the scores into the data set's own metadata",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        sub = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        module = importlib.import_module(f"{__name__}.{name}")
        module.add_arguments(sub)
        sub.set_defaults(curate=module.run)


def run(arguments: argparse.Namespace) -> int:
    """What the subcommand returns."""
    return int(arguments.curate(arguments))
