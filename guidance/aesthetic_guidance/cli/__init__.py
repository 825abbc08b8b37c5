"""`aesthetic guide`: its subcommands."""

from __future__ import annotations

import argparse

from aesthetic_client.cli._commands import add_commands
from aesthetic_client.cli._commands import run_command as run

__all__ = ["COMMANDS", "add_arguments", "run"]

COMMANDS = {
    "embed": "the aesthetic embedding of a folder: the mean of its images' CLIP features",
    "fit": "a head of your own, from your ratings or choices",
    "compare": "the scores of two folders: distributions, effect size, confidence interval",
    "personalize": "prompts moved towards an aesthetic embedding, for Stable Diffusion 1.x",
    "reward-server": "rewards as JSON over HTTP, for trainers of generators",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, __name__, COMMANDS)
