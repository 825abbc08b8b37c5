"""Do personalised prompts give images that score higher? The comparison of aesthetic gradients.

    python prompt_comparison.py -o compared             # tiny random pipeline: noise, no download
    python prompt_comparison.py -o compared --url grpc://gpu1:8001 --images 4 \\
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 --inference-steps 50 \\
        --embedding sac_8plus.pt --prompts table1.txt

From every prompt, group A is generated plainly and group B with the prompt personalised by an
aesthetic embedding, from the same seeds and with the same negative prompt. `aesthetic guide compare
--paired` then scores both, draws the two distributions, and gives effect sizes and confidence
intervals; prompts, not images, are what is drawn anew for the interval within pairs.

Gallego, Personalizing Text-to-Image Generation via Aesthetic Gradients, 2022, arXiv 2209.12330,
compares groups of 25 prompts (Table 1 and Fig. 2). Its prompts are not shipped: give them with
--prompts, a file of one a line. prompts.txt, the default, has 25 others.

Needs `pip install diffusers transformers aesthetic-triton[guidance]`, and for the scores --url of a
running server, or --repository of a model repository, from which one is started.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from personalised_pipeline import opened

from aesthetic_client.cli import main as aesthetic
from aesthetic_client.errors import AestheticError, InputError
from aesthetic_guidance.personalize import personalize
from aesthetic_guidance.recipes import Recipe

PROMPTS = Path(__file__).with_name("prompts.txt")
GROUPS = ("A-plain", "B-personalised")


def main() -> int:
    """0, or 2 where something must be mended first, as the `aesthetic` commands do."""
    try:
        return compared(parsed())
    except AestheticError as error:
        print(f"prompt_comparison.py: {error}", file=sys.stderr)
        return 2


def compared(options: argparse.Namespace) -> int:
    """Generate both groups and compare them. Raises InputError before anything is generated."""
    check(options)
    prompts = read_prompts(options.prompts)
    pipeline, projection, embedding = opened(options)
    for number, prompt in enumerate(prompts):
        found = personalize(
            prompt,
            embedding,
            pipeline.text_encoder,
            projection=projection,
            steps=options.steps,
            lr=options.lr,
        )
        before, after = found.agreement[0], found.agreement[-1]
        print(f"{number:03d} agreement {before:.4f} to {after:.4f}: {prompt}", flush=True)
        hidden_states = (found.original_hidden_state, found.last_hidden_state)
        for group, hidden in zip(GROUPS, hidden_states, strict=True):
            generate(pipeline, hidden, options, options.output / group / f"{number:03d}")
    folders = [str(options.output / group) for group in GROUPS]
    picture = str(options.output / "comparison.svg")
    command = ["guide", "compare", *folders, "--paired", "-o", picture]
    where = [
        word
        for name in ("url", "repository")
        if (value := getattr(options, name))
        for word in (f"--{name}", str(value))
    ]
    if not where:
        print("To compare their scores:  aesthetic", *command, "--url grpc://...")
        return 0
    return aesthetic(
        [*command, *where, "--head", options.head] if options.head else command + where
    )


def check(options: argparse.Namespace) -> None:
    """Raises InputError for options that would be refused, or mislead, after hours of generation.

    Images of another run would be compared beside those of this one.
    """
    for name in ("images", "inference_steps"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} takes a number above 0")
    Recipe(options.steps, options.lr)
    if options.url and options.repository:
        raise InputError("--repository is for a started server; --url names a running one")
    if options.repository and not Path(options.repository).is_dir():
        raise InputError(f"--repository: there is no folder {options.repository}")
    for folder in (options.output / group for group in GROUPS):
        if folder.exists():
            raise InputError(f"{folder} is there already, of another run: name another --output")


def generate(pipeline: Any, hidden: torch.Tensor, options: argparse.Namespace, into: Path) -> None:
    """Images of one conditioning (77, width), a seed each, as `into`/SEED.png."""
    into.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seed, options.seed + options.images):
        image = pipeline(
            prompt_embeds=hidden[None].to(pipeline.device, pipeline.dtype),
            negative_prompt=options.negative,  # encoded by the pipeline's own weights
            num_inference_steps=options.inference_steps,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        image.save(into / f"{seed:04d}.png")


def read_prompts(path: Path) -> list[str]:
    """The lines that are not empty. Raises InputError for a file without two, or that is none."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if len(prompts) < 2:
        raise InputError(f"{path} has {len(prompts)} prompts, one a line; 2 are needed")
    return prompts


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder")
    parser.add_argument("--model", help="a Stable Diffusion 1.x pipeline; without: tiny, random")
    parser.add_argument(
        "--embedding", type=Path, help="an aesthetic embedding: .safetensors or .pt"
    )
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="a text file, one a line")
    parser.add_argument("--images", type=int, default=1, metavar="N", help="a prompt and group")
    parser.add_argument("--seed", type=int, default=0, help="of the first image of each prompt")
    parser.add_argument("--negative", default="")
    parser.add_argument("--steps", type=int, default=10, help="of personalisation")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--inference-steps", type=int, default=4, help="50 for a real image")
    parser.add_argument("--url", help="a running server, for the scores")
    parser.add_argument("--repository", help="a model repository, for a server to be started")
    parser.add_argument("--head", help="the head that scores")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
