"""Heads of the remote scorer: what the server is asked for, and what is computed here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aesthetic_client import Client, contract
from aesthetic_client.contract import AESTHETIC_HEADS, EMBEDDING, EMBEDDING_DIM, HEADS, Head
from aesthetic_client.errors import InputError
from aesthetic_export.heads import HeadWeights, fold
from aesthetic_guidance.frozen import frozen
from aesthetic_guidance.head_modules import Vector, head_module, head_vector

# Rounding of fp32 scores around 5 comes to 1e-6; a ReLU somewhere, to far more than this.
AFFINE_TOLERANCE = 1e-4  # of a score, over the weight's length


@dataclass(frozen=True)
class Asked:
    """A head as inputs of `aesthetic_gradient`: its score is the served one plus `bias`."""

    head_weights: NDArray[np.float32]  # (5,)
    direction: NDArray[np.float32]  # (768,)
    bias: float = 0.0


@dataclass(frozen=True)
class RemoteHead:
    """`asked` is None where a score takes two calls; `module` (N, 768) -> (N, 1) where the head is
    not computed here. `served` names it on the server, if it is there.
    """

    name: str
    asked: Asked | None
    module: nn.Module | None
    meaningless: bool = False
    served: Head | None = None


def remote_head(client: Client, head: str | HeadWeights | Vector) -> RemoteHead:
    """The head of a name that is served, of export's weights, or of a vector.

    Raises InputError for what is none of them, and what the client raises for names.
    """
    if isinstance(head, str):
        return _by_name(client, head)
    if not isinstance(head, HeadWeights):
        vector = head_vector(head)
        return RemoteHead("vector", _direction(vector.numpy()), _module(head))
    asked = None
    if head.source.kind != "relu_mlp":
        weight, bias = fold(head)
        asked = _direction(weight, bias)
    meaningless = contract.SEEDED_WEIGHTS in head.weights
    return RemoteHead(head.source.name, asked, _module(head), meaningless)


def read_off(client: Client, head: Head) -> tuple[NDArray[np.float64], float] | None:
    """A served head's weight (768,) and bias, from its scores of 1544 vectors in one request.

    None for a head that is not affine. Along each axis there and back, so that a head that
    normalises its input is read off as well.
    """
    axes = np.eye(EMBEDDING_DIM, dtype=np.float32)
    others = np.random.default_rng(0).standard_normal((8, EMBEDDING_DIM))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    there, back, others_scores = np.split(
        served_scores(client, head, np.concatenate([axes, -axes, others.astype(np.float32)])),
        [EMBEDDING_DIM, 2 * EMBEDDING_DIM],
    )
    weight, bias = (there - back) / 2, float((there + back).mean() / 2)
    off = np.abs(others.astype(np.float32) @ weight + bias - others_scores).max()
    affine = off <= AFFINE_TOLERANCE * max(float(np.linalg.norm(weight)), 1.0)
    return (weight, bias) if affine else None


def served_scores(client: Client, head: Head, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) scores of (n, 768) vectors of any length by a served head, also one that was added."""
    model = replace(AESTHETIC_HEADS, outputs=(head.tensor,))
    size = contract.MAX_EMBEDDING_BATCH
    answers = [
        client.infer(model, {EMBEDDING.name: vectors[start : start + size]})[head.output]
        for start in range(0, len(vectors), size)
    ]
    scores: NDArray[np.float64] = np.concatenate([rows[:, 0] for rows in answers]).astype(
        np.float64
    )
    return scores


class LinearHead(nn.Module):
    """(N, 768) -> (N, 1): a weight and a bias."""

    def __init__(self, weight: NDArray[np.float64], bias: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight))
        self.bias = bias

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return (embedding * self.weight).sum(-1, keepdim=True) + self.bias


def _by_name(client: Client, name: str) -> RemoteHead:
    served = {key: head for head in client.heads() for key in (head.output, head.name)}
    if name not in served:
        known = ", ".join(head.name for head in client.heads())
        raise InputError(f"no head named {name!r} is served; these are: {known}")
    head = served[name]
    module = None
    if (found := read_off(client, head)) is not None:
        module = frozen(LinearHead(*found)).float()
    published = [known.name for known in HEADS]
    if head.name in published:
        weights = np.zeros(len(HEADS), np.float32)
        weights[published.index(head.name)] = 1
        asked = Asked(weights, np.zeros(EMBEDDING_DIM, np.float32))
        return RemoteHead(head.name, asked, module, served=head)
    if found is None:  # added to `aesthetic_heads`, and not in `aesthetic_gradient`
        raise InputError(
            f"{head.name} is an MLP that the gradient model does not have: give its weights "
            "(aesthetic_export.head_files.read_head) instead of its name"
        )
    return RemoteHead(head.name, _direction(*found), module, served=head)


def _direction(weight: NDArray[np.float64], bias: float = 0.0) -> Asked:
    zeros = np.zeros(len(HEADS), np.float32)
    return Asked(zeros, np.asarray(weight, np.float32).reshape(EMBEDDING_DIM), bias)


def _module(head: HeadWeights | Vector) -> nn.Module:
    return frozen(head_module(head)).float()
