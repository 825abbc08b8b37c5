"""The `aesthetic` command. Each room brings its subcommand; it is imported when it is called.

argparse, because the base install (numpy, tritonclient) must run `aesthetic score --url`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType

from aesthetic_client.errors import AestheticError, InputError

DISTRIBUTION = "aesthetic-triton"


@dataclass(frozen=True)
class Command:
    """A subcommand: the module with its `add_arguments` and `run`, and the extra that it needs."""

    name: str
    module: str
    help: str
    extra: str | None = None


COMMANDS = (
    Command("score", "aesthetic_client.cli.score", "score images and rank them"),
    Command("embed", "aesthetic_client.cli.embed", "write CLIP embeddings of images as .npy"),
    Command("curate", "aesthetic_curate.cli", "score and filter whole data sets", "curate"),
    Command("guide", "aesthetic_guidance.cli", "embeddings and heads of your own", "guidance"),
    Command("serve", "aesthetic_serve.cli", "run Triton on this machine", "serve"),
    Command("export", "aesthetic_export.cli", "weights to a servable model repository", "export"),
    Command("verify", "aesthetic_export.verify_cli", "a server against published scores", "export"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. 2 is a usage error or one that stopped everything."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parsed = _parser(words).parse_args(words)
        with _naming_the_extra(parsed.extra):
            return int(parsed.run(parsed))
    except AestheticError as error:
        print(f"aesthetic: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` had enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("aesthetic: interrupted", file=sys.stderr)
        return 130


def load_room(module: str, extra: str | None) -> ModuleType:
    """Import a module of another room. Raises InputError that names the extra which is missing."""
    with _naming_the_extra(extra):
        return importlib.import_module(module)


@contextmanager
def _naming_the_extra(extra: str | None) -> Iterator[None]:
    """Turns an import that fails, now or when a room's heavy parts load, into advice."""
    try:
        yield
    except ImportError as error:
        if extra is None:
            raise
        raise InputError(
            f"this needs the {extra!r} extra ({error.name or error} is missing): "
            f"pip install '{DISTRIBUTION}[{extra}]'"
        ) from None


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aesthetic",
        description="Aesthetic scores of images: CLIP ViT-L/14 and the LAION heads on Triton.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version(DISTRIBUTION))
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    called = next((word for word in words if not word.startswith("-")), None)
    for command in COMMANDS:
        sub = subparsers.add_parser(
            command.name, help=command.help, description=command.help, allow_abbrev=False
        )
        if command.name == called:
            module = load_room(command.module, command.extra)
            module.add_arguments(sub)
            sub.set_defaults(run=module.run, extra=command.extra)
    return parser
