"""`aesthetic guide personalize`: prompts in, what Stable Diffusion 1.x is conditioned on out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from aesthetic_client import Client
from aesthetic_client.cli._show import print_table, status
from aesthetic_client.contract import AESTHETIC_PERSONALIZE
from aesthetic_client.errors import InputError
from aesthetic_client.tokenizer import check_prompt
from aesthetic_client.vectors import origin_notes
from aesthetic_export.cli import weights_folders
from aesthetic_export.provenance import metadata_of, text_tower_provenance
from aesthetic_guidance.cli._images import check_output, weights_note
from aesthetic_guidance.embeddings import AestheticEmbedding
from aesthetic_guidance.features import load_text_tower
from aesthetic_guidance.recipes import LEARNING_RATE, STEPS, Optimizer, Recipe

if TYPE_CHECKING:
    from aesthetic_guidance.personalize import Personalized

FORMAT = "personalized-prompts-1"  # `format` of the file's metadata
DEFAULT_TIMEOUT_S = 600.0  # of one prompt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Move the text model of each prompt towards an aesthetic embedding (aesthetic gradients), "
        "and write the prompt embeddings that Stable Diffusion 1.x takes."
    )
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="a prompt, in quotes")
    parser.add_argument(
        "--embedding",
        type=Path,
        required=True,
        metavar="FILE",
        help="an aesthetic embedding: of `aesthetic guide embed`, or a published .pt",
    )
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        required=True,
        metavar="FILE.safetensors",
        help="prompt_embeds (n, 77, 768), text_embeddings (n, 768), agreement (n, steps + 1)",
    )
    parser.add_argument(
        "--url",
        help="a running server with aesthetic_personalize (`aesthetic export --with personalize`); "
        "else the text tower runs in this process",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="S",
        help=f"with --url: seconds for one prompt (default: {DEFAULT_TIMEOUT_S:g})",
    )
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="without --url: the text tower's weights, as in `aesthetic export` (default: openai)",
    )
    parser.add_argument("--sha256", metavar="HASH", help="of the weights' file")
    parser.add_argument("--weights-dir", type=Path, metavar="DIR", help="downloaded weights")
    _add_recipe(parser)


def run(arguments: argparse.Namespace) -> int:
    """0, or what the user must mend as an error."""
    check_output(arguments.output, (".safetensors",))
    local = (arguments.weights, arguments.sha256, arguments.weights_dir)
    if arguments.url and any(local):
        raise InputError(
            "--weights, --sha256 and --weights-dir are for this process, without --url"
        )
    recipe = Recipe(
        arguments.steps,
        arguments.lr,
        arguments.optimizer,
        arguments.weight,
        arguments.slerp,
        arguments.negative,
    )
    for index, prompt in enumerate(arguments.prompts):  # before weights are loaded
        check_prompt(prompt, position=f"prompts[{index}]")
    embedding = AestheticEmbedding.read(arguments.embedding)
    personalize = _on_the_server if arguments.url else _in_this_process
    found, known = personalize(arguments, embedding, recipe)
    _write(arguments.output, found, recipe, embedding, known)
    rows = [
        (f"{one.agreement[0]:.4f}", f"{one.agreement[-1]:.4f}", one.prompt or '""') for one in found
    ]
    print_table(("agreement before", "after", "prompt"), rows, sys.stdout)
    notes = (*weights_note(known), *origin_notes(str(arguments.embedding), embedding.model, known))
    for note in dict.fromkeys(notes):
        print(note)
    print(arguments.output)
    return 0


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps", type=int, default=STEPS, metavar="N", help=f"steps a prompt (default: {STEPS})"
    )
    parser.add_argument(
        "--lr",
        type=float,
        default=LEARNING_RATE,
        metavar="LR",
        help=f"the steps' size (default: {LEARNING_RATE:g})",
    )
    parser.add_argument(
        "--optimizer",
        choices=get_args(Optimizer),
        default="adam",
        help="adam, as the paper's code (the default), or ascent, as the paper writes it",
    )
    parser.add_argument(
        "--weight",
        type=float,
        default=1.0,
        metavar="W",
        help="blend the hidden states: 0 the original's, 1 the personalised (the default)",
    )
    parser.add_argument(
        "--slerp", action="store_true", help="blend along the arc, not the straight line"
    )
    parser.add_argument(
        "--negative", action="store_true", help="move away from the embedding instead"
    )


def _on_the_server(
    arguments: argparse.Namespace, embedding: AestheticEmbedding, recipe: Recipe
) -> tuple[list[Personalized], dict[str, Any]]:
    from aesthetic_guidance.remote_personalize import personalize_remote

    with (
        Client(arguments.url, timeout_s=arguments.timeout) as client,
        status(f"personalising on {client.address}"),
    ):
        found = personalize_remote(arguments.prompts, embedding, client, recipe)
        known = client.provenance([AESTHETIC_PERSONALIZE])
    return found, known.get(AESTHETIC_PERSONALIZE.name, {})


def _in_this_process(
    arguments: argparse.Namespace, embedding: AestheticEmbedding, recipe: Recipe
) -> tuple[list[Personalized], dict[str, Any]]:
    from aesthetic_guidance.personalize import personalize_each

    folders = weights_folders(arguments.weights_dir)
    tower = load_text_tower(arguments.weights or "openai", arguments.sha256, folders)
    with status("personalising"):
        found = personalize_each(arguments.prompts, embedding, tower, recipe)
    return found, text_tower_provenance(tower, AESTHETIC_PERSONALIZE)


def _write(
    path: Path,
    found: Sequence[Personalized],
    recipe: Recipe,
    embedding: AestheticEmbedding,
    known: Mapping[str, Any],
) -> None:
    """All prompts' tensors under diffusers' names, with prompts, recipe and provenance."""
    import torch
    from safetensors.torch import save_file

    tensors = {
        "prompt_embeds": torch.stack([one.last_hidden_state for one in found]),
        "text_embeddings": torch.stack([one.embedding for one in found]),
        "agreement": torch.tensor([one.agreement for one in found]),
    }
    metadata = {
        "format": FORMAT,
        "prompts": json.dumps([one.prompt for one in found], ensure_ascii=False),
        "recipe": json.dumps(asdict(recipe)),
        "aesthetic_embedding": embedding.source,
        **metadata_of(known),
    }
    partial = path.with_name(f"{path.name}.partial")
    save_file(tensors, partial, metadata)
    partial.replace(path)
