"""A Stable Diffusion 1.x pipeline whose prompt is personalised; its negative prompt is untouched.

    python personalised_pipeline.py                     # tiny random pipeline: noise, no download
    python personalised_pipeline.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --embedding sac_8plus.pt --prompt "Hills of Tuscany" --negative "blurry" --steps 20

Needs `pip install diffusers transformers aesthetic-triton[guidance]`. With --model, the pipeline
comes from the Hugging Face hub, or from a folder on this machine, and CLIP's text projection from
the hub.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from aesthetic_client.contract import CONTEXT_LENGTH
from aesthetic_client.tokenizer import VOCABULARY_SIZE
from aesthetic_client.vectors import origin_notes
from aesthetic_export.openclip import open_clip_transformer
from aesthetic_guidance.embeddings import AestheticEmbedding
from aesthetic_guidance.personalize import personalize

# diffusers imports torchvision; on a CPU-only PyTorch that needs what this call does first.
open_clip_transformer()

CLIP = "openai/clip-vit-large-patch14"  # Stable Diffusion 1.x has its text encoder from there
TINY_WIDTH = 32
TINY_SIZE = 64  # pixels


def main() -> None:
    options = parsed()
    pipeline, projection, embedding = opened(options)
    found = personalize(
        options.prompt,
        embedding,
        pipeline.text_encoder,
        projection=projection,
        steps=options.steps,
        lr=options.lr,
        weight=options.weight,
        slerp=options.slerp,
    )
    print(f"agreement {found.agreement[0]:.4f} before, {found.agreement[-1]:.4f} after")
    for name, hidden in (
        ("original", found.original_hidden_state),
        ("personalised", found.last_hidden_state),
    ):
        image = pipeline(
            prompt_embeds=hidden[None].to(pipeline.dtype),
            negative_prompt=options.negative,  # encoded by the pipeline's own weights
            num_inference_steps=options.inference_steps,
            generator=torch.Generator().manual_seed(options.seed),
        ).images[0]
        path = options.output / f"{name}.png"
        image.save(path)
        print(path)


def opened(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The pipeline, its text projection and the aesthetic embedding that the options mean."""
    pipeline, projection = real(options.model) if options.model else tiny()
    pipeline.set_progress_bar_config(disable=True)
    if options.embedding:
        embedding = AestheticEmbedding.read(options.embedding)
        for note in origin_notes(str(options.embedding), embedding.model, {}):
            print(note)
        return pipeline, projection, embedding
    print("No --embedding: a random direction, which means nothing.")
    return pipeline, projection, torch.randn(768, generator=torch.Generator().manual_seed(0))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a Stable Diffusion 1.x pipeline; without: tiny, random")
    parser.add_argument(
        "--embedding", type=Path, help="an aesthetic embedding: .safetensors or .pt"
    )
    parser.add_argument("--prompt", default="Hills of Tuscany, oil on canvas")
    parser.add_argument("--negative", default="")
    parser.add_argument("--steps", type=int, default=10, help="of personalisation")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--weight", type=float, default=1.0, help="0: original, 1: personalised")
    parser.add_argument("--slerp", action="store_true")
    parser.add_argument("--inference-steps", type=int, default=4, help="50 for a real image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path())
    return parser.parse_args()


def real(model: str) -> tuple[Any, Any]:
    """The pipeline and the layer that projects its text encoder's output to CLIP's embedding."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModelWithProjection

    pipeline = StableDiffusionPipeline.from_pretrained(model)
    if torch.cuda.is_available():
        pipeline = pipeline.to("cuda")
    return pipeline, CLIPTextModelWithProjection.from_pretrained(CLIP).text_projection


def tiny() -> tuple[Any, Any]:
    """Stable Diffusion's parts with random weights, small enough for a second's run."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=TINY_WIDTH,
        intermediate_size=4 * TINY_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
    )
    unet = UNet(
        sample_size=TINY_SIZE // 2,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TINY_WIDTH,
    )
    vae = AutoencoderKL(
        block_out_channels=[32, 64],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
    )
    bpe = SimpleTokenizer()  # the same vocabulary; OpenAI spells its special tokens otherwise
    spelled = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    tokenizer = CLIPTokenizer(
        vocab={spelled.get(token, token): number for token, number in bpe.encoder.items()},
        merges=list(bpe.bpe_ranks),
        model_max_length=CONTEXT_LENGTH,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, torch.nn.Linear(TINY_WIDTH, 768, bias=False)


if __name__ == "__main__":
    main()
