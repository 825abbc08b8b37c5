"""What the subcommands share: embedding images with progress, writing text whole."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.cli._server import connected
from aesthetic_client.cli._show import progress
from aesthetic_client.contract import CLIP_IMAGE, SEEDED_WEIGHTS
from aesthetic_client.errors import InputError

Vectors = dict[Path, NDArray[np.float32]]


def embed_files(
    arguments: argparse.Namespace, files: Sequence[Path]
) -> tuple[Vectors, dict[str, Any]]:
    """Unit embeddings by file through the server, and its tower's provenance.

    A file that cannot be embedded is named on stderr and left out.
    """
    found: Vectors = {}
    with connected(arguments) as client:
        known = dict(client.provenance().get(CLIP_IMAGE.name, {}))
        results = client.score_many(files, embedding=True, in_flight=arguments.in_flight)
        for result in progress(results, len(files), "embedding"):
            if result.error is not None:
                print(f"not embedded: {result.source}: {result.error.message}", file=sys.stderr)
                continue
            assert result.embedding is not None
            found[result.source] = result.embedding
    return found, known


def weights_note(known: dict[str, Any]) -> tuple[str, ...]:
    """The line that must stand beside whatever random weights have computed."""
    seeded = SEEDED_WEIGHTS in str(known.get("weights", ""))
    return (f"MEANINGLESS: weights are {SEEDED_WEIGHTS}",) if seeded else ()


def check_output(path: Path, suffixes: Iterable[str], option: str = "--output") -> None:
    """Raises InputError before any work for a file that could not be written in the end."""
    wanted = tuple(suffixes)
    if path.suffix not in wanted:
        raise InputError(f"{option} must end in {' or '.join(wanted)}, got {path}")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}")


def write_text(path: Path, text: str) -> None:
    """Under a temporary name first, so that the file is never half written."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
