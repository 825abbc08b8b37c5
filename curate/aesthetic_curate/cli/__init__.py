"""`aesthetic curate`: its subcommands."""

from __future__ import annotations

import argparse

from aesthetic_client.cli._commands import add_commands
from aesthetic_client.cli._commands import run_command as run

__all__ = ["COMMANDS", "add_arguments", "run"]

COMMANDS = {
    "score": "score a data set, shard by shard, resumably",
    "filter": "a smaller data set: the samples whose scores are high enough",
    "report": "a page that shows the scores of a data set",
    "annotate": "write the scores into the data set's own metadata",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, __name__, COMMANDS)
