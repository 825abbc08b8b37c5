"""`aesthetic verify`: a running server against published scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from aesthetic_client import paths

if TYPE_CHECKING:
    from aesthetic_export.verify import Check, Verification

DEFAULT_URL = "localhost:8001"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = (
        "Score published embeddings (and images, where their files and real weights are there) on "
        "a running server, and compare with the published scores. Exit code 0 means: all equal."
    )
    parser.add_argument(
        "--url", default=DEFAULT_URL, help=f"the server's address (default: {DEFAULT_URL})"
    )
    parser.add_argument(
        "--golden",
        type=Path,
        metavar="DIR",
        help="a folder with the published embeddings (they are downloaded otherwise; "
        f"${paths.WEIGHTS_VARIABLE} is searched too)",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="a folder with published images")


def run(arguments: argparse.Namespace) -> int:
    """0 when every check passed, 1 when one did not. Raises InputError and the client's errors."""
    from aesthetic_client import Client
    from aesthetic_export import console
    from aesthetic_export.cli import weights_folders
    from aesthetic_export.files import FileStore
    from aesthetic_export.verify import verify

    folders = (*((arguments.golden,) if arguments.golden else ()), *weights_folders(None))
    with Client(arguments.url) as client, console.downloads() as progress:
        store = FileStore(paths.cache_dir(), folders, progress)
        result = verify(client, store, arguments.images)
    print_verification(result, arguments.url)
    return 0 if result else 1


def print_verification(result: Verification, url: str) -> None:
    """A row for each item, a column for each head, what was not run and why, and the verdict."""
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False)
    if result.checks:
        heads = list(dict.fromkeys(check.head for check in result.checks))
        allowed = " or ".join(sorted({f"{check.tolerance:g}" for check in result.checks}))
        table = Table(title=f"|difference| from the published score (allowed: {allowed})")
        table.add_column("published item", overflow="fold", min_width=14)
        for head in heads:
            table.add_column(head, overflow="fold", max_width=9)
        for item in dict.fromkeys(check.item for check in result.checks):
            cells = {check.head: check for check in result.checks if check.item == item}
            row = [_cell(cells[head]) if head in cells else "" for head in heads]
            table.add_row(item, *row)
        out.print(table)
    for note in result.notes:
        out.print(f"note: {note}", markup=False)
    for failure in result.failures:
        out.print(f"FAIL: {failure}", markup=False)
    passed = sum(map(bool, result.checks))
    verdict = "PASS" if result else "FAIL"
    out.print(
        f"{verdict}: {passed} of {len(result.checks)} scores of {url} equal the published ones",
        markup=False,
    )


def _cell(check: Check) -> str:
    text = "absent" if check.found is None else f"{check.difference:.1e}"
    return text if check else f"[bold red]{text}![/]"
