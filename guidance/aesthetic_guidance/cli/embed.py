"""`aesthetic guide embed`: images in, their aesthetic embedding out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.cli._files import find_images
from aesthetic_client.cli._server import add_server_arguments
from aesthetic_client.cli._show import progress
from aesthetic_client.contract import EMBEDDING_DIM
from aesthetic_client.errors import InputError
from aesthetic_export.cli import weights_folders
from aesthetic_export.provenance import tower_provenance
from aesthetic_guidance.cli._images import check_output, embed_files, weights_note
from aesthetic_guidance.embeddings import PUBLISHED_SUFFIX, mean_of
from aesthetic_guidance.features import load_tower, raw_features


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files, or folders of them")
    add_server_arguments(parser)
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        required=True,
        metavar="FILE",
        help="FILE.safetensors, with its provenance, or FILE.pt, as the published ones are",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="average raw features, as the published code does, so that images with a longer "
        "feature count for more; the server gives unit vectors only (all images count alike), so "
        "this runs the tower in this process",
    )
    parser.add_argument(
        "--weights",
        default=None,
        metavar="WEIGHTS",
        help="with --raw: the tower's weights, as in `aesthetic export` (default: openai)",
    )
    parser.add_argument("--sha256", metavar="HASH", help="with --raw: of the weights' file")
    parser.add_argument(
        "--weights-dir", type=Path, metavar="DIR", help="with --raw: downloaded weights"
    )


def run(arguments: argparse.Namespace) -> int:
    """0 when every image is in the mean, 1 when some could not be embedded."""
    check_output(arguments.output, (".safetensors", PUBLISHED_SUFFIX))
    if arguments.raw and (arguments.url or arguments.repository or arguments.profile):
        raise InputError("--raw runs in this process: leave out --url, --repository, --profile")
    if not arguments.raw and (arguments.weights or arguments.sha256 or arguments.weights_dir):
        raise InputError("--weights, --sha256 and --weights-dir belong to --raw")
    files = find_images(arguments.paths)
    vectors, known = (_raw if arguments.raw else embed_files)(arguments, files)
    if not vectors:
        raise InputError("none of the images could be embedded")
    features = np.array(list(vectors.values())).reshape(-1, EMBEDDING_DIM)
    source = ", ".join(arguments.paths)
    embedding = mean_of(features, normalize_each=not arguments.raw, source=source, model=known)
    embedding.write(arguments.output)
    kind = "their raw features" if arguments.raw else "their features, each of length 1"
    print(f"{len(vectors)} images, the mean of {kind}", file=sys.stderr)
    for note in weights_note(known):
        print(note, file=sys.stderr)
    print(arguments.output)
    return 0 if len(vectors) == len(files) else 1


def _raw(
    arguments: argparse.Namespace, files: list[Path]
) -> tuple[dict[Path, NDArray[np.float32]], dict[str, Any]]:
    folders = weights_folders(arguments.weights_dir)
    tower = load_tower(arguments.weights or "openai", arguments.sha256, folders)
    found: dict[Path, NDArray[np.float32]] = {}
    features = progress(raw_features(tower, files), len(files), "embedding")
    for path, feature in zip(files, features, strict=True):
        if isinstance(feature, InputError):
            print(f"not embedded: {path}: {feature.message}", file=sys.stderr)
        else:
            found[path] = feature
    return found, tower_provenance(tower)
