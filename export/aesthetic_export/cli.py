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
        "come from. With --target tensorrt, on a GPU and inside the serving container, add both as "
        "TensorRT plans of that GPU. Prints the repository's path."
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
        "--add-head",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="serve a head of `aesthetic guide fit` beside the published ones, under its own name; "
        "with --model aesthetic_heads the tower stays as it is; may be given more than once",
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
        "--precision",
        action="append",
        choices=("fp32", "fp16", "bf16", "int8"),
        help="the image tower's number type: fp32 (the default, for every machine); and beside it "
        "fp16 for GPUs, bf16 or int8 for CPUs (see serve --profile); may be given more than once",
    )
    parser.add_argument(
        "--target",
        choices=("onnx", "tensorrt"),
        default="onnx",
        help="onnx (the default), or tensorrt: plans, from ONNX files that are there already or "
        "are exported first; needs the GPU and the TensorRT that will serve them",
    )
    parser.add_argument(
        "--opt-batch",
        type=int,
        metavar="N",
        help="with --target tensorrt: the batch that the tower's plan is tuned for (default: "
        f"{contract.TOWER_PLAN.opt_batch})",
    )
    parser.add_argument(
        "--with",
        dest="add_ons",
        action="append",
        default=[],
        choices=[add_on.name for add_on in contract.ADD_ONS],
        help="add models: dali, aesthetic_dali, which decodes on the GPU, for a Triton with the "
        "DALI backend, as NVIDIA's container has it; text, clip_text; personalize, "
        "aesthetic_personalize, which needs torch where it serves; gradient, aesthetic_gradient; "
        "may be given more than once",
    )
    parser.add_argument(
        "--if-missing",
        action="store_true",
        help="export only what the repository does not have already",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="compare on photographs of this folder instead of made-up ones, and calibrate int8 "
        "with some of them",
    )


def run(arguments: argparse.Namespace) -> int:
    """0 when everything asked for was exported and passed its comparison, else 1.

    Raises InputError for what the user must mend.
    """
    from aesthetic_export import console, exporting
    from aesthetic_export.folders import check_target, source_repository

    target = (arguments.repository or paths.default_repository()).expanduser()
    check_target(target, source_repository())
    job = exporting.Job(
        target,
        weights=arguments.weights,
        sha256=arguments.sha256,
        head_weights=arguments.head_weights,
        added_heads=tuple(arguments.add_head),
        models=frozenset(arguments.model or EXPORTED),
        precisions=frozenset(arguments.precision or ("fp32",)),
        plan=arguments.target == "tensorrt",
        opt_batch=arguments.opt_batch,
        add_ons=tuple(a for a in contract.ADD_ONS if a.name in arguments.add_ons),
        images=arguments.images,
        cache=paths.cache_dir(),
        weights_folders=weights_folders(arguments.weights_dir),
    )
    if arguments.if_missing:
        job = job.missing()
    if job.is_empty():
        console.say(f"already exported: {job.found()}; leave out --if-missing to export anew")
    elif not job.run():
        return 1
    print(target, file=sys.stdout)
    return 0


def weights_folders(given: Path | None) -> tuple[Path, ...]:
    """The folder of downloaded files: the option's, else the environment's, else none."""
    if given is None and (named := os.environ.get(paths.WEIGHTS_VARIABLE)):
        given = Path(named)
    return (given.expanduser(),) if given else ()
