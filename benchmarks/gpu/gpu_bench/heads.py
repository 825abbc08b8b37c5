"""The aesthetic heads in fp32: the published files where they are given, else random ones."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from gpu_bench.project import project_module
from gpu_bench.shapes import EMBEDDING

Layers = list[tuple[Tensor, Tensor]]
RELU = "ava+logos-l14-reluMSE"  # the one with activations
NORMALISED = "sac_public_2022_06_29_vit_l_14_linear"  # the one that scales its input itself


def head_names() -> tuple[str, ...]:
    """The contract's heads."""
    return tuple(head.name for head in project_module("contract").HEADS)


def load_heads(folder: Path, device: torch.device) -> dict[str, Layers]:
    """Every head of the contract from its published file. Raises OSError where one is missing."""
    return {
        name: layers_of(torch.load(folder / f"{name}.pth", "cpu", weights_only=True), device)
        for name in head_names()
    }


def random_heads(device: torch.device) -> dict[str, Layers]:
    """One linear layer a head, about as long as the published ones are."""
    random = torch.Generator().manual_seed(0)
    drawn = {}
    for name in head_names():
        weight = 16 / math.sqrt(EMBEDDING) * torch.randn(1, EMBEDDING, generator=random)
        drawn[name] = [(weight.to(device), torch.full((1,), 5.0, device=device))]
    return drawn


def layers_of(state: Mapping[str, Tensor], device: torch.device) -> Layers:
    """The linear layers of a state dict, in order."""

    def position(name: str) -> int:
        number = re.search(r"\d+", name)
        return int(number[0]) if number else 0

    weights = sorted((name for name in state if name.endswith("weight")), key=position)
    return [
        (
            state[name].float().to(device),
            state[f"{name.removesuffix('weight')}bias"].float().to(device),
        )
        for name in weights
    ]


def scores(heads: Mapping[str, Layers], embedding: Tensor) -> dict[str, Tensor]:
    """(N, 768) fp32 of length 1 -> (N,) a head."""
    return {name: _score(name, layers, embedding) for name, layers in heads.items()}


def _score(name: str, layers: Layers, x: Tensor) -> Tensor:
    if name == NORMALISED:
        x = functional.normalize(x, dim=-1) * math.sqrt(EMBEDDING)
    for weight, bias in layers[:-1]:
        x = functional.linear(x, weight, bias)
        x = functional.relu(x) if name == RELU else x
    return functional.linear(x, *layers[-1])[:, 0]
