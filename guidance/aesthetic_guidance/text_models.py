"""Text models of open_clip and transformers as one: tokens to embedding and hidden states."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from aesthetic_client.contract import EMBEDDING_DIM
from aesthetic_client.errors import InputError
from aesthetic_client.tokenizer import PAD_END, tokenize
from aesthetic_export.towers import Tower, check_quick_gelu

# A tower of aesthetic_export.text_towers, its module, or transformers' CLIPTextModelWithProjection,
# CLIPModel or CLIPTextModel.
Text: TypeAlias = Tower | nn.Module
_PROJECTION = "text_projection"


class TextModel(nn.Module):
    """Tokens (N, 77) int64 to the embedding (N, 768), not yet L2-normalised, and the hidden states
    (N, 77, width) after the final layer norm. Fewer tokens give the hidden states of these alone,
    and the same embedding while the end of text is among them: attention is causal.

    `text` is the model as its library made it. A model of transformers is followed by `projection`
    (768, width), a model of open_clip has its own.
    """

    projection: torch.Tensor | None

    def __init__(self, text: Any, projection: torch.Tensor | None) -> None:
        super().__init__()
        self.text = text
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.projection is None:
            hidden = self._open_clip_hidden(tokens)
            ends = hidden[torch.arange(len(tokens)), tokens.argmax(dim=-1)]
            embedding = ends @ self.text.text_projection
        else:
            output = self.text(input_ids=tokens)
            hidden = output.last_hidden_state
            embedding = functional.linear(output.pooler_output, self.projection)
        return embedding, hidden

    def _open_clip_hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """What its own forward computes, which takes no fewer than 77 tokens."""
        text, count = self.text, tokens.shape[1]
        stream = text.token_embedding(tokens) + text.positional_embedding[:count]
        hidden: torch.Tensor = text.ln_final(
            text.transformer(stream, attn_mask=text.attn_mask[:count, :count])
        )
        return hidden

    def fresh(self) -> TextModel:
        """A copy to train, in fp32, whose projection is frozen; this one never changes."""
        twin = copy.deepcopy(self).float().eval().requires_grad_(True)
        for name, parameter in twin.named_parameters():
            if name.rpartition(".")[2] == _PROJECTION:
                parameter.requires_grad_(False)
        return twin

    def trained(self) -> list[nn.Parameter]:
        """What personalisation moves: everything of the text model but the projection."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        """(n, 77) int64 on the model's device, padded as Stable Diffusion 1.x pads them.

        Warns and raises as `aesthetic_client.tokenizer.tokenize`.
        """
        return torch.from_numpy(tokenize(prompts, pad=PAD_END)).to(next(self.parameters()).device)


def text_model(text: Text, projection: Text | None = None) -> TextModel:
    """`text` as a TextModel that shares its weights.

    A `CLIPTextModel`, such as a Stable Diffusion 1.x pipeline's text encoder, has no projection:
    `projection` is where it comes from, a linear layer (`CLIPTextModelWithProjection`'s
    `text_projection`) or a text tower or model that has one.
    Raises InputError for another model, or a projection to other than 768 dimensions;
    ActivationError for an open_clip tower without QuickGELU.
    """
    module = text.module if isinstance(text, Tower) else text
    if isinstance(module, TextModel):
        return module
    if hasattr(module, "token_embedding") and hasattr(module, "transformer"):
        check_quick_gelu(module)
        _check_open_clip(module)
        return TextModel(module, None)
    # transformers 4 has the transformer inside CLIPTextModel, 5 is one itself
    inner: Any = getattr(module, "text_model", module)
    if not hasattr(inner, "final_layer_norm"):
        raise InputError(
            f"a {type(module).__name__} is no CLIP text model: give a text tower, or transformers' "
            "CLIPTextModelWithProjection, CLIPTextModel or CLIPModel"
        )
    matrix = _projection(module if projection is None else projection)
    width = int(inner.final_layer_norm.weight.shape[0])
    if matrix.shape != (EMBEDDING_DIM, width):
        raise InputError(
            f"the projection is from {matrix.shape[1]} to {matrix.shape[0]} dimensions, expected "
            f"from {width}, the text model's width, to {EMBEDDING_DIM}"
        )
    return TextModel(inner, matrix)


def embed_text(prompts: Sequence[str], text: Text, projection: Text | None = None) -> torch.Tensor:
    """(n, 768) fp32 text embeddings of length 1. Raises as `text_model`, warns as `tokenize`."""
    model = text_model(text, projection)
    with torch.no_grad():
        embedding, _ = model(model.tokens(prompts))
    return functional.normalize(embedding.float(), dim=-1)


def _check_open_clip(module: Any) -> None:
    """Raises InputError for a text tower that open_clip built otherwise than CLIP's."""
    projection = module.text_projection
    if not isinstance(projection, torch.Tensor) or projection.shape[1] != EMBEDDING_DIM:
        raise InputError(f"the text tower has no projection to {EMBEDDING_DIM} dimensions")
    if module.attn_mask is None or module.pool_type != "argmax":
        raise InputError("the text tower is not CLIP's: causal, pooled at the end of text")


def _projection(source: Text) -> torch.Tensor:
    """(768, width) of a linear layer, or of a model that has one."""
    module = source.module if isinstance(source, Tower) else source
    found: Any = module if isinstance(module, nn.Linear) else getattr(module, _PROJECTION, None)
    if isinstance(found, nn.Linear) and found.bias is None:
        return found.weight.detach()
    if isinstance(found, torch.Tensor):
        return found.detach().t()  # open_clip multiplies from the left
    raise InputError(
        f"{type(module).__name__} has no text projection: give one, such as "
        "CLIPTextModelWithProjection.from_pretrained('openai/clip-vit-large-patch14')"
    )
