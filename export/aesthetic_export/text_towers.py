"""The text tower: OpenAI CLIP ViT-L/14's text transformer with QuickGELU, in fp32.

Its module maps tokens (N, 77) int64 to the text embedding (N, 768) fp32, not yet L2-normalised, and
the hidden states (N, 77, width) fp32 after the final layer norm. The embedding is the hidden state
of the end-of-text token, projected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aesthetic_client.contract import CONTEXT_LENGTH, EMBEDDING_DIM
from aesthetic_client.tokenizer import VOCABULARY_SIZE
from aesthetic_export.openclip import open_clip_transformer
from aesthetic_export.towers import Tower, load_weights, seeded

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn


@dataclass(frozen=True)
class TextShape:
    """A text transformer's sizes; the outer ones (77 tokens of 49408, 768) are fixed."""

    width: int = 768
    layers: int = 12
    heads: int = 12


VIT_L_14_TEXT = TextShape()


def seeded_text_tower(seed: int, shape: TextShape = VIT_L_14_TEXT) -> Tower:
    """The true architecture with random weights: those of open_clip's own construction after
    `torch.manual_seed(seed)`. The global random state is left as it was.
    """
    return seeded(seed, lambda: build_text_transformer(shape))


def text_tower_from_state(
    state: Mapping[str, torch.Tensor],
    *,
    sha256: str,
    source: str,
    weights: str = "openai",
    shape: TextShape = VIT_L_14_TEXT,
) -> Tower:
    """A tower with the weights of `state`, named as open_clip names them (see text_checkpoints.py).

    Raises InputError when a tensor is missing, left over or of another shape.
    """
    module = build_text_transformer(shape)
    load_weights(module, state, f"{source} holds no ViT-L/14 text tower")
    return Tower(module, weights, source, sha256)


def shape_of(module: Any) -> TextShape:
    """The sizes of a module of `build_text_transformer`."""
    blocks = module.transformer.resblocks
    return TextShape(module.ln_final.weight.shape[0], len(blocks), blocks[0].attn.num_heads)


def build_text_transformer(shape: TextShape) -> nn.Module:
    """open_clip's text transformer with QuickGELU and a causal mask, random weights, in eval mode.

    It pools where a row's largest token stands first: the end of text, the vocabulary's last.
    """
    transformer = open_clip_transformer()
    module: nn.Module = transformer.TextTransformer(
        context_length=CONTEXT_LENGTH,
        vocab_size=VOCABULARY_SIZE,
        width=shape.width,
        heads=shape.heads,
        layers=shape.layers,
        output_dim=EMBEDDING_DIM,
        pool_type="argmax",
        act_layer=transformer.QuickGELU,
        output_tokens=True,
    )
    return module.eval().requires_grad_(False)
