"""A server's gradients beside the local ones: heads of both, requests counted."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from scored_images import relative

from aesthetic_client import Client
from aesthetic_export.files import PinnedFile
from aesthetic_export.heads import HeadSource, HeadWeights, seeded_heads
from aesthetic_export.samples import unit_vectors
from towers import tiny_tower

TOWER, SEEDED = tiny_tower(), seeded_heads(0)
RELU = SEEDED[2]
VECTOR = unit_vectors(1, seed=5)[0] * 3
MINE = HeadWeights(  # served beside the published ones, and unknown to the gradient model
    HeadSource("my taste", PinnedFile("mine", "", "0" * 64, 0), "", "affine", ((1, 768),)),
    ((unit_vectors(1, seed=6).astype(np.float64) * 20, np.array([5.5])),),
    "fitted",
)


class CountingClient(Client):
    """Keeps what was asked: rows and outputs of each request."""

    calls: list[tuple[int, tuple[str, ...]]]

    def infer(self, model: Any, inputs: Any, *, outputs: Any = None) -> Any:
        with threading.Lock():
            self.calls.append((len(next(iter(inputs.values()))), tuple(outputs or ())))
        return super().infer(model, inputs, outputs=outputs)


def assert_alike(remote: Any, local: Any, pixels: torch.Tensor) -> None:
    """Scores to 1e-5 of their slope, which is how far the embedding's rounding moves them."""
    given, expected = (pixels.clone().requires_grad_() for _ in range(2))
    embeddings = local.embed(expected.detach()).requires_grad_()
    (by_embedding,) = torch.autograd.grad(local.score_embeddings(embeddings).sum(), embeddings)
    slope = max(1.0, float(by_embedding.norm(dim=1).max()))
    scores, wanted = remote.score(given), local.score(expected)
    assert scores.shape == wanted.shape and scores.dtype == torch.float32
    assert float((scores - wanted).detach().abs().max()) <= 1e-5 * slope
    weights = torch.linspace(-1, 2, len(pixels))[:, None]
    (weights * scores).sum().backward()
    (weights * wanted).sum().backward()
    assert given.grad.shape == pixels.shape
    assert relative(given.grad, expected.grad) < 1e-4
