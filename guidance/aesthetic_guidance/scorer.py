"""Aesthetic scores of image tensors, with gradients to the pixels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from aesthetic_client import paths
from aesthetic_client.contract import DEFAULT_HEAD, EMBEDDING_DIM, SEEDED_WEIGHTS
from aesthetic_client.errors import InputError
from aesthetic_client.pixels import CLIP_MEAN, CLIP_STD
from aesthetic_export import sources
from aesthetic_export.cli import weights_folders
from aesthetic_export.files import FileStore
from aesthetic_export.heads import HeadWeights
from aesthetic_export.towers import Tower
from aesthetic_export.weights import parse_weights
from aesthetic_guidance.frozen import FrozenTower, frozen, wide
from aesthetic_guidance.head_modules import Vector, full_name, head_module
from aesthetic_guidance.resize import resize_and_crop

RANGE_SLACK = 1e-3  # a quarter of an 8-bit step: what arithmetic may leave outside of [0, 1]


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


class AestheticScorer(nn.Module):
    """Images to scores through a frozen tower and one head: what the server computes, but
    differentiable (frozen.py, resize.py).

    In: (B, 3, H, W) RGB or (B, 1, H, W) grey, floats in [0, 1], any H and W. Out: (B, 1) fp32, on
    the images' device. Always in eval mode; `.to(device)` moves it, and its number types stay as
    they were built, also where a model around it is cast, and under autocast. Call `backward()`
    outside of autocast, though: inside, the gradient's own products are rounded (0.5% off with
    bfloat16). Second derivatives: frozen.py. Without gradients (`torch.no_grad()`) it is a plain
    scorer.

    `tower` is one of export's. `head` is one of export's heads, or a 768-vector, which is taken as
    it is: score = embedding . vector. `dtype`: torch.float32, torch.bfloat16 (faster and smaller
    on hardware that has it) or torch.float64 (to check gradients). `checkpointing` trades up to
    half more time for a third of the memory. `round_to_8bit` scores images as an 8-bit file would
    hold them, and lets gradients through. `meaningless` is true where weights are random.
    Raises InputError for a head or dtype that cannot be used, ActivationError for a wrong tower.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        tower: Tower,
        head: HeadWeights | Vector,
        *,
        dtype: torch.dtype = torch.float32,
        checkpointing: bool = False,
        round_to_8bit: bool = False,
    ) -> None:
        super().__init__()
        self.tower = FrozenTower(tower.module, dtype, checkpointing=checkpointing)
        self.head = frozen(head_module(head)).to(wide(dtype))
        self.round_to_8bit = round_to_8bit
        self.weights = tower.weights
        self.head_name = head.source.name if isinstance(head, HeadWeights) else "vector"
        self.meaningless = tower.seeded or (
            # Random weights, or fitted on the embeddings of a random tower.
            isinstance(head, HeadWeights) and SEEDED_WEIGHTS in head.weights
        )
        for name, values in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
            constant = torch.tensor(values, dtype=wide(dtype)).view(1, 3, 1, 1)
            self.register_buffer(name, constant, persistent=False)
        self.eval()

    @classmethod
    def load(
        cls,
        weights: str = "openai",
        head: str | HeadWeights | Vector = DEFAULT_HEAD.name,
        *,
        dtype: torch.dtype = torch.float32,
        checkpointing: bool = False,
        round_to_8bit: bool = False,
        sha256: str | None = None,
        head_weights: str | None = None,
        weights_dir: Path | None = None,
        cache: Path | None = None,
        warn: Callable[[str], None] = _warn,
    ) -> AestheticScorer:
        """A scorer of published weights, found or downloaded and hashed as `aesthetic export` does.

        `weights`, `sha256` and `weights_dir` are that command's options; folders that are not given
        are the environment's (`aesthetic_client.paths`), as for a command. `head` is a head's name,
        a fitted one's weights or a vector. `head_weights`: published, auto or seeded:N; by default
        published, but auto where `weights` is auto or seeded. `warn` is told when random weights
        stand in.
        Raises InputError for what is unknown or cannot be reached.
        """
        spec = parse_weights(weights, sha256=sha256)
        store = FileStore(cache or paths.cache_dir(), weights_folders(weights_dir))
        chosen: HeadWeights | Vector
        if isinstance(head, str):
            name = full_name(head)  # a misspelt one is told before anything is downloaded
            choice = head_weights or ("auto" if spec.kind in ("auto", "seeded") else "published")
            heads = sources.load_heads(choice, store, warn)
            chosen = next(known for known in heads if known.source.name == name)
        else:
            head_module(head)
            chosen = head
        return cls(
            sources.load_tower(spec, store, warn),
            chosen,
            dtype=dtype,
            checkpointing=checkpointing,
            round_to_8bit=round_to_8bit,
        )

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The same as `score`."""
        return self.score(images)

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1) scores. Raises InputError for images that are not as the class says."""
        return self.score_embeddings(self.embed(images))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 768) CLIP embeddings of length 1. Raises InputError as `score` does."""
        check_images(images)
        with torch.autocast(self.device.type, enabled=False):
            image = images.to(self.device, self.mean.dtype)
            image = resize_and_crop(image, round_to_8bit=self.round_to_8bit)
            # Grey turns into RGB here: (B, 1, 224, 224) less (1, 3, 1, 1) has three channels.
            embeddings = self.tower((image - self.mean) / self.std)
            return functional.normalize(embeddings, dim=-1).to(images.device)

    def score_embeddings(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, 768) of length 1 -> (B, 1) scores. Raises InputError for another shape."""
        check_embeddings(embeddings)
        with torch.autocast(self.device.type, enabled=False):
            scores: torch.Tensor = self.head(embeddings.to(self.device, self.mean.dtype))
            return scores.to(embeddings.device)

    def train(self, mode: bool = True) -> AestheticScorer:
        """Stays in eval mode, also where the model around it is set to training."""
        return super().train(False)

    def _apply(
        self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
    ) -> AestheticScorer:
        """Follows moves between devices only: `model.to(device, torch.bfloat16)`, as trainers say
        to everything they hold, would round LayerNorms and heads.
        """
        device = fn(torch.empty(0, device=self.device)).device
        super()._apply(lambda tensor: tensor.to(device), recurse)  # type: ignore[no-untyped-call]
        return self


def check_embeddings(embeddings: torch.Tensor) -> None:
    """Raises InputError unless `embeddings` are (B, 768)."""
    if embeddings.ndim != 2 or embeddings.shape[1] != EMBEDDING_DIM:
        shape = tuple(embeddings.shape)
        raise InputError(f"embeddings: expected (B, {EMBEDDING_DIM}), got {shape}")


def check_images(images: torch.Tensor) -> None:
    """Raises InputError unless `images` are (B, 3 or 1, H, W) floats in [0, 1]."""
    if not isinstance(images, torch.Tensor):
        raise InputError(f"images: expected a torch.Tensor, got {type(images).__name__}")
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] not in (1, 3) or 0 in shape:
        hint = "; one image needs a batch axis: images[None]" if images.ndim == 3 else ""
        raise InputError(f"images: expected (B, 3, H, W) or (B, 1, H, W), got {shape}{hint}")
    if not images.is_floating_point():
        raise InputError(f"images: expected floats in [0, 1], got {images.dtype}: use images / 255")
    low, high = (float(value) for value in images.detach().aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("images: some pixels are NaN or infinite")
    if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
        raise InputError(
            f"images: expected values in [0, 1], got {low:.4g} to {high:.4g}: use images / 255 for "
            "0 to 255, (images + 1) / 2 for -1 to 1, images.clamp(0, 1) for a decoder's overshoots"
        )
