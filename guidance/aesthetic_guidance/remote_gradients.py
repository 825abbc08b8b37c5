"""Served scores and embeddings as functions of autograd, whose derivatives are served too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

from aesthetic_client.contract import EMBEDDING, EMBEDDING_DIM, HEADS, PIXEL_GRADIENT, SCORE
from aesthetic_client.errors import InputError
from aesthetic_guidance.remote_heads import Asked

# (pixels, head_weights, direction, *names of outputs) -> the outputs, on the pixels' device.
Infer: TypeAlias = Callable[..., list[torch.Tensor]]


class ServedScore(torch.autograd.Function):
    """One call: the score, and its derivative for later.

    In: pixels (B, 3, 224, 224) fp32. Out: scores (B, 1) and, with_gradient, their derivatives by
    the pixels, for `backward` alone.

    `ctx.pixels`, here and below, are not saved for backward: their values are not needed again, so
    they may change in place. What is needed is their graph, to notice second derivatives.
    """

    @staticmethod
    def forward(
        pixels: torch.Tensor, infer: Infer, asked: Asked, with_gradient: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        outputs = (SCORE.name, PIXEL_GRADIENT.name) if with_gradient else (SCORE.name,)
        found = infer(pixels, asked.head_weights, asked.direction, *outputs)
        return found[0] + asked.bias, found[1] if with_gradient else None

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        gradient = output[1]
        if gradient is not None:
            ctx.pixels = inputs[0]
            ctx.mark_non_differentiable(gradient)
            ctx.save_for_backward(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        by_pixels: torch.Tensor = _Product.apply(gradient, grads[0], ctx.pixels)  # type: ignore[no-untyped-call]
        return by_pixels, None, None, None


class ServedEmbedding(torch.autograd.Function):
    """One call for the embedding (B, 768); one more for its derivative, by what follows it."""

    @staticmethod
    def forward(pixels: torch.Tensor, infer: Infer) -> torch.Tensor:
        no_head, no_direction = np.zeros(len(HEADS)), np.zeros(EMBEDDING_DIM)
        (embedding,) = infer(
            pixels, no_head.astype(np.float32), no_direction.astype(np.float32), EMBEDDING.name
        )
        return embedding

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.pixels, ctx.infer = inputs
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(ctx.pixels.detach().clone())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (pixels,) = ctx.saved_tensors
        slope: torch.Tensor = _Slope.apply(grads[0], pixels, ctx.pixels, ctx.infer)  # type: ignore[no-untyped-call]
        return slope, None


class _Last(torch.autograd.Function):
    """A gradient that says so where it would be differentiated again, by `pixels` or what made it.

    A Function itself, because its `forward` gets plain tensors within `torch.func.grad` as well.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        raise InputError(
            "the served gradient cannot be differentiated again: for second derivatives use "
            "AestheticScorer in this process, under "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
        )


class _Product(_Last):
    """(B, 3, 224, 224) derivatives of scores times (B, 1) of what follows."""

    @staticmethod
    def forward(
        gradient: torch.Tensor, following: torch.Tensor, pixels: torch.Tensor
    ) -> torch.Tensor:
        return gradient * following.view(-1, 1, 1, 1)


class _Slope(_Last):
    """The derivative of direction . embedding at `kept`, for (B, 768) that are held fixed."""

    @staticmethod
    def forward(
        direction: torch.Tensor, kept: torch.Tensor, pixels: torch.Tensor, infer: Infer
    ) -> torch.Tensor:
        no_head = np.zeros(len(HEADS), np.float32)
        rows = direction.to("cpu", torch.float32).numpy()
        (slope,) = infer(kept, no_head, rows, PIXEL_GRADIENT.name)
        return slope
