"""What may be a scorer's head: one of export's, by its weights or its name, or any vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from aesthetic_client import contract
from aesthetic_client.contract import EMBEDDING_DIM
from aesthetic_client.errors import InputError
from aesthetic_export.heads import HeadWeights
from aesthetic_export.modules import Affine, ReluMlp

# Any 768 numbers are a head without a bias: an aesthetic embedding's scores are cosines.
Vector: TypeAlias = torch.Tensor | npt.NDArray[Any] | Sequence[float]


class VectorHead(nn.Module):
    """(B, 768) -> (B, 1): the product with one vector."""

    def __init__(self, vector: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(vector)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return (embedding * self.weight).sum(-1, keepdim=True)


def head_module(head: HeadWeights | Vector) -> nn.Module:
    """(N, 768) -> (N, 1). Raises InputError for what is no vector."""
    if isinstance(head, HeadWeights):
        return ReluMlp(head) if head.source.kind == "relu_mlp" else Affine(head)
    return VectorHead(head_vector(head))


def head_vector(values: Vector) -> torch.Tensor:
    """(768,) float64 of a vector or a (1, 768) row. Raises InputError."""
    if isinstance(values, str):
        raise InputError(f"head {values!r}: a head by name needs AestheticScorer.load")
    if not isinstance(values, torch.Tensor):
        try:
            values = torch.from_numpy(np.array(values, dtype=np.float64))
        except (TypeError, ValueError):
            kind = type(values).__name__
            raise InputError(f"head: expected {EMBEDDING_DIM} numbers, got {kind}") from None
    tensor = values.detach().to("cpu", torch.float64)
    if tuple(tensor.shape) not in ((EMBEDDING_DIM,), (1, EMBEDDING_DIM)):
        raise InputError(f"head: expected {EMBEDDING_DIM} numbers, got shape {tuple(tensor.shape)}")
    single = tensor.float()  # what it is computed in
    if not bool(single.isfinite().all()) or not bool(single.any()):
        raise InputError("head: as fp32, the vector has NaN or infinite numbers, or zeros only")
    return tensor.flatten()


def full_name(name: str) -> str:
    """A head's name by itself or by its tensor's. Raises InputError."""
    for head in contract.HEADS:
        if name in (head.name, head.output):
            return head.name
    known = ", ".join(head.name for head in contract.HEADS)
    raise InputError(f"{name!r} is no head; use one of {known}, or a vector of {EMBEDDING_DIM}")
