"""`aesthetic embed`: CLIP ViT-L/14 embeddings of images, as `.npy` and an index."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.cli._files import find_images
from aesthetic_client.cli._server import add_server_arguments, connected
from aesthetic_client.cli._show import progress
from aesthetic_client.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files, or folders of them")
    add_server_arguments(parser)
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        required=True,
        metavar="FILE.npy",
        help="embeddings, (n, 768); FILE.jsonl beside it names each row's image",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="float16 halves the file and moves scores by 2e-4 at most (default: float32)",
    )


def run(arguments: argparse.Namespace) -> int:
    """0 when every image has an embedding, 1 when some do not."""
    output: Path = arguments.output
    if output.suffix != ".npy":
        raise InputError(f"--output must end in .npy, got {output}")
    if not output.parent.is_dir():
        raise InputError(f"there is no folder {output.parent}")
    files = find_images(arguments.paths)
    rows: list[NDArray[Any]] = []
    index: list[dict[str, object]] = []
    failed = 0
    with connected(arguments) as client:
        results = client.score_many(files, embedding=True, in_flight=arguments.in_flight)
        for result in progress(results, len(files), "embedding"):
            if result.error is not None:
                print(f"not embedded: {result.source}: {result.error.message}", file=sys.stderr)
                failed += 1
                continue
            assert result.embedding is not None
            index.append({"row": len(rows), "path": str(result.source), "score": result.score})
            rows.append(result.embedding.astype(arguments.dtype))
    array = np.stack(rows) if rows else np.empty((0, 768), arguments.dtype)
    _write(output, array, index)
    print(output)
    return 1 if failed else 0


def _write(output: Path, array: NDArray[Any], index: list[dict[str, object]]) -> None:
    """Both files under temporary names first, so that neither is ever half written."""
    partial = output.with_suffix(".npy.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    listing = output.with_suffix(".jsonl.partial")
    listing.write_text("".join(json.dumps(row) + "\n" for row in index), encoding="utf-8")
    os.replace(listing, output.with_suffix(".jsonl"))
    os.replace(partial, output)
