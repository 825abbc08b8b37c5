"""Aesthetic gradients: a prompt's text model, moved for a few steps towards an aesthetic embedding.

Gallego, Personalizing Text-to-Image Generation via Aesthetic Gradients, 2022, arXiv 2209.12330. The
paper writes plain gradient ascent on the cosine of text and aesthetic embedding; its code
(github.com/vicgalle/stable-diffusion-aesthetic-gradients) takes Adam for the steps. Either way
the projection stays as it is and every prompt starts from the weights given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from aesthetic_client.errors import InputError
from aesthetic_client.vectors import one_vector, unit_vector
from aesthetic_guidance.blending import lerp, slerp
from aesthetic_guidance.recipes import LEARNING_RATE, STEPS, Optimizer
from aesthetic_guidance.recipes import Recipe as Recipe  # callers find it here
from aesthetic_guidance.text_models import Text, TextModel, text_model

_FUSED_DEVICES = ("cpu", "cuda")  # Adam in one pass: on 2 cores 0.4 s a step instead of 4


class Stopped(Exception):
    """Personalising was stopped between two steps: nobody wants the result any more."""


@dataclass(frozen=True, eq=False)
class Personalized:
    """A prompt's conditioning; all tensors fp32 on the text model's device.

    `last_hidden_state` (77, width) is what Stable Diffusion 1.x takes, blended by the recipe;
    `original_hidden_state` is the same before. `embedding` (768,) is the text embedding of the
    personalised weights, of length 1. `agreement` is its cosine with the aesthetic embedding before
    the first and after each step: steps + 1 numbers. A server does not tell the original's states:
    `Client.embed_text` does.
    """

    prompt: str
    last_hidden_state: torch.Tensor
    original_hidden_state: torch.Tensor | None
    embedding: torch.Tensor
    agreement: tuple[float, ...]


def personalize(
    prompt: str,
    embedding: Any,
    text: Text,
    *,
    steps: int = STEPS,
    lr: float = LEARNING_RATE,
    optimizer: Optimizer = "adam",
    weight: float = 1.0,
    slerp: bool = False,
    negative: bool = False,
    projection: Text | None = None,
) -> Personalized:
    """One prompt, moved towards `embedding` (768,) or (1, 768), of any length.

    `text` and `projection` as in `text_models.text_model`; the model given is never changed.
    Raises InputError for what cannot be used, or a step size under which the steps diverge.
    """
    recipe = Recipe(steps, lr, optimizer, weight, slerp, negative)
    return personalize_each([prompt], embedding, text, recipe, projection=projection)[0]


def personalize_each(
    prompts: Sequence[str],
    embedding: Any,
    text: Text,
    recipe: Recipe | None = None,
    *,
    projection: Text | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Personalized]:
    """Several prompts, each from fresh weights: the same as one call of `personalize` a prompt.

    `stop` is asked before each prompt and each step. Raises Stopped once it says yes.
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts
    model = text_model(text, projection)
    # A pipeline calls this under no_grad or inference_mode; learning works under neither.
    with torch.inference_mode(False), torch.enable_grad():
        target = unit_target(embedding)
        tokens = model.tokens(prompts)
        return [
            _personalized(prompt, row[None], target.to(row.device), model, recipe or Recipe(), stop)
            for prompt, row in zip(prompts, tokens, strict=True)
        ]


def _personalized(
    prompt: str,
    tokens: torch.Tensor,
    target: torch.Tensor,
    model: TextModel,
    recipe: Recipe,
    stop: Callable[[], bool],
) -> Personalized:
    _check_wanted(stop)
    twin = model.fresh()
    optimizer = _optimizer(recipe, twin.trained())
    sign = -1 if recipe.negative else 1
    with torch.no_grad():
        _, original = _embedded(twin, tokens)
    # The loss sees nothing after the end of text: attention is causal.
    seen = tokens[:, : int(tokens.argmax()) + 1]
    agreement = []
    for _ in range(recipe.steps):
        _check_wanted(stop)
        embedding, _ = _embedded(twin, seen)
        cosine = embedding @ target
        agreement.append(float(cosine.detach()))
        optimizer.zero_grad()
        torch.autograd.backward(-sign * cosine)
        optimizer.step()
    with torch.no_grad():
        embedding, hidden = _embedded(twin, tokens)
    agreement.append(float(embedding @ target))
    if not all(map(math.isfinite, agreement)):
        raise InputError(f"lr={recipe.lr} is too large: the text model no longer gives numbers")
    blend = slerp if recipe.slerp else lerp
    return Personalized(
        prompt,
        blend(original, hidden, recipe.weight),
        original,
        embedding,
        tuple(agreement),
    )


def _check_wanted(stop: Callable[[], bool]) -> None:
    if stop():
        raise Stopped


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """With PyTorch's defaults. Descent on -cosine, which SGD takes, is ascent on the cosine."""
    if recipe.optimizer == "ascent":
        return torch.optim.SGD(parameters, lr=recipe.lr)
    fused = parameters[0].device.type in _FUSED_DEVICES
    return torch.optim.Adam(parameters, lr=recipe.lr, fused=fused)


def _embedded(twin: TextModel, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The embedding (768,) of length 1 and the hidden states (77, width) of one prompt."""
    embedding, hidden = twin(tokens)
    return functional.normalize(embedding[0], dim=-1), hidden[0]


def unit_target(embedding: Any) -> torch.Tensor:
    """(768,) fp32 of length 1. Raises EmbeddingError for another shape, NaN or zeros alone."""
    if isinstance(embedding, torch.Tensor):
        embedding = embedding.detach().cpu().double()
    values = np.asarray(getattr(embedding, "vector", embedding))
    return torch.from_numpy(unit_vector(one_vector(values, "the aesthetic embedding")))
