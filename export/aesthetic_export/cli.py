"""`aesthetic export`: weights to a servable model repository."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from aesthetic_client import contract, paths

EXPORTED = (contract.CLIP_IMAGE.name, contract.AESTHETIC_HEADS.name)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = (
        "Build the model repository that `aesthetic serve` serves: export the image tower and the "
        "aesthetic heads to ONNX, compare each with its torch module, and write where its numbers "
        "come from. Prints the repository's path."
    )
    parser.add_argument(
        "--repository",
        type=Path,
        metavar="DIR",
        help="the repository to build or renew (default: model_repository in "
        f"${paths.CACHE_VARIABLE})",
    )
    parser.add_argument(
        "--weights",
        default="openai",
        metavar="WEIGHTS",
        help="the image tower's weights: openai (from the Hugging Face hub, the default), auto "
        "(the same, or seeded:0 without a network), seeded:N (random; scores are meaningless), "
        "a .pt or .safetensors file, or an https:// address",
    )
    parser.add_argument(
        "--sha256", metavar="HASH", help="accept a file or an address with this SHA-256"
    )
    parser.add_argument(
        "--head",
        choices=("all",),
        default="all",
        help="which heads: all, the five that the served outputs are declared for (the default)",
    )
    parser.add_argument(
        "--head-weights",
        metavar="WEIGHTS",
        help="the heads' weights: published (the default), auto (the default with --weights auto), "
        "or seeded:N",
    )
    parser.add_argument(
        "--weights-dir",
        type=Path,
        metavar="DIR",
        help="a folder of files already downloaded: heads, ViT-L-14.pt or model.safetensors "
        f"(default: ${paths.WEIGHTS_VARIABLE})",
    )
    parser.add_argument(
        "--model",
        action="append",
        choices=EXPORTED,
        help="export this model only and keep the other's artifact; may be given twice",
    )
    parser.add_argument(
        "--if-missing",
        action="store_true",
        help="do nothing where the repository already has what would be exported",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="compare on photographs of this folder instead of made-up ones",
    )


def run(arguments: argparse.Namespace) -> int:
    """0 when everything asked for was exported and passed its comparison, else 1.

    Raises InputError for what the user must mend.
    """
    from aesthetic_export import console, samples
    from aesthetic_export.files import FileStore
    from aesthetic_export.folders import check_target, source_repository
    from aesthetic_export.onnx_export import ExportError
    from aesthetic_export.parity import ParityError
    from aesthetic_export.provenance import read_provenance
    from aesthetic_export.repository import build_repository
    from aesthetic_export.sources import load_heads, load_tower
    from aesthetic_export.weights import parse_weights

    target = (arguments.repository or paths.default_repository()).expanduser()
    models = arguments.model or EXPORTED
    check_target(target, source_repository())
    if arguments.if_missing and all(read_provenance(target / model / "1") for model in models):
        console.say("already exported; leave out --if-missing to export anew")
        print(target)
        return 0
    spec = parse_weights(arguments.weights, sha256=arguments.sha256)
    images = samples.images_of_folder(arguments.images) if arguments.images else None
    with console.downloads() as progress:
        folders = weights_folders(arguments.weights_dir)
        store = FileStore(paths.cache_dir(), folders, progress)
        tower = None
        if contract.CLIP_IMAGE.name in models:
            tower = load_tower(spec, store, console.warn)
        if contract.AESTHETIC_HEADS.name in models:
            default = "auto" if spec.kind == "auto" else "published"
            heads = load_heads(arguments.head_weights or default, store, console.warn)
        else:  # only to turn the tower's differences into scores
            note = "the published heads cannot be reached: comparing scores of random ones"
            heads = load_heads(arguments.head_weights or "auto", store, lambda _: console.say(note))
    try:
        reports = build_repository(
            target,
            tower=tower,
            heads=heads if contract.AESTHETIC_HEADS.name in models else None,
            comparison_heads=heads,
            images=images,
            say=console.say,
        )
    except ParityError as error:
        console.print_report(error.report)
        console.say(f"{error.report.model} was not exported; {target} is as it was.")
        return 1
    except ExportError as error:
        console.say(f"error: {error}")
        return 1
    for report in reports.values():
        console.print_report(report)
    print(target, file=sys.stdout)
    return 0


def weights_folders(given: Path | None) -> tuple[Path, ...]:
    """The folder of downloaded files: the option's, else the environment's, else none."""
    if given is None and (named := os.environ.get(paths.WEIGHTS_VARIABLE)):
        given = Path(named)
    return (given.expanduser(),) if given else ()
