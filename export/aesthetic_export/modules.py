"""The two exported networks as torch modules: what the ONNX graphs must equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from aesthetic_client.pixels import CLIP_MEAN, CLIP_STD
from aesthetic_export.added_heads import check_heads
from aesthetic_export.heads import HeadWeights, fold

GROUPS = 32  # partial sums of an affine head


class ClipImage(nn.Module):
    """Pixels to embedding, everything in fp32.

    In: (N, 224, 224, 3) uint8 RGB. Out: (N, 768) fp32, of length 1.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        for name, values in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
            constant = torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, constant, persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.features(pixels), dim=-1)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """CLIP's raw image features (N, 768), which are not of length 1."""
        # The cast comes first: it is the one thing that TensorRT does with UINT8.
        image = pixels.float().permute(0, 3, 1, 2) / 255
        image = (image - self.mean) / self.std
        features: torch.Tensor = self.tower(image)
        return features


class ReluMlp(nn.Module):
    """(N, 768) -> (N, 1): linear layers with a ReLU after each but the last.

    The published network drops out between them in training only.
    """

    def __init__(self, head: HeadWeights) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for weight, bias in head.layers:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.weight.data = torch.from_numpy(weight).float()
            layer.bias.data = torch.from_numpy(bias).float()
            self.layers.append(layer)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            embedding = functional.relu(layer(embedding))
        scores: torch.Tensor = self.layers[-1](embedding)
        return scores


class Affine(nn.Module):
    """(N, 768) -> (N, 1): a head folded in float64 to one weight and one bias.

    Sums go over 32 groups of 24 first. One long fp32 sum is off by up to 2e-5 where a head's weight
    is 374 long (`sac_public...`, whose own normalisation is summed the same way for that reason).
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, head: HeadWeights) -> None:
        super().__init__()
        weight, bias = fold(head)
        self.normalizes = head.source.kind == "scaled_affine"
        self.register_buffer("weight", torch.from_numpy(weight).float().view(GROUPS, -1))
        self.register_buffer("bias", torch.tensor([bias], dtype=torch.float32))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        groups = embedding.reshape(-1, *self.weight.shape)
        score: torch.Tensor = (groups * self.weight).sum(-1).sum(-1, keepdim=True)
        if self.normalizes:
            squares = (groups * groups).sum(-1).sum(-1, keepdim=True)
            score = score / squares.sqrt().clamp_min(1e-12)  # torch's F.normalize has this floor
        return score + self.bias


class AestheticHeads(nn.Module):
    """Every head at once. In: (N, 768) fp32 of length 1. Out: one (N, 1) fp32 a head, in order.

    Raises InputError unless they are the contract's, and after them heads of other names.
    """

    def __init__(self, heads: Sequence[HeadWeights]) -> None:
        super().__init__()
        check_heads(heads)
        self.heads = nn.ModuleList(
            ReluMlp(head) if head.source.kind == "relu_mlp" else Affine(head) for head in heads
        )
        self.eval().requires_grad_(False)

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(head(embedding) for head in self.heads)
