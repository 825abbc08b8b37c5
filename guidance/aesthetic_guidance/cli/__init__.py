"""`aesthetic guide`: its subcommands."""

from __future__ import annotations

import argparse
import importlib

COMMANDS = {
    "embed": "the aesthetic embedding of a folder: the mean of its images' CLIP features",
    "fit": "a head of your own, from your ratings or choices",
    "compare": "the scores of two folders: distributions, effect size, confidence interval",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        sub = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        module = importlib.import_module(f"{__name__}.{name}")
        module.add_arguments(sub)
        sub.set_defaults(guide=module.run)


def run(arguments: argparse.Namespace) -> int:
    """What the subcommand returns."""
    return int(arguments.guide(arguments))
