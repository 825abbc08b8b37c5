"""Commands of a command: `aesthetic curate score`, each a module of its room's `cli` package."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping


def add_commands(
    parser: argparse.ArgumentParser, package: str, commands: Mapping[str, str]
) -> None:
    """Add a subparser a command, by name and help; `run_command` then runs the one called."""
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in commands.items():
        sub = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        module = importlib.import_module(f"{package}.{name.replace('-', '_')}")
        module.add_arguments(sub)
        sub.set_defaults(run_below=module.run)


def run_command(arguments: argparse.Namespace) -> int:
    """What the subcommand returns."""
    return int(arguments.run_below(arguments))
