"""The image tower: OpenAI CLIP ViT-L/14 with QuickGELU, in fp32, and the checks that it is that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aesthetic_client.contract import EMBEDDING_DIM, IMAGE_SIZE, SEEDED_WEIGHTS
from aesthetic_client.errors import InputError
from aesthetic_export.openclip import open_clip_transformer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import nn

ACTIVATION = "quick_gelu"  # x * sigmoid(1.702 x), which OpenAI trained with
QUICK_GELU_FACTOR = 1.702
ACTIVATION_TOLERANCE = 1e-5  # plain GELU differs from QuickGELU by up to 2e-2 on the same grid


@dataclass(frozen=True)
class Shape:
    """A vision transformer's sizes; the outer ones (224, 768) are the contract's."""

    patch: int = 14  # pixels
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0


VIT_L_14 = Shape()


class ActivationError(InputError):
    """A tower whose activation is not QuickGELU: its scores would be wrong by about 0.6."""


@dataclass(frozen=True)
class Tower:
    """A tower and where its weights come from.

    An image tower's `module` maps (N, 3, 224, 224) fp32 normalised RGB to (N, 768) fp32, not yet
    L2-normalised; for a text tower's, see text_towers.py.
    """

    module: nn.Module
    weights: str
    source: str
    sha256: str | None = None
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def seeded(self) -> bool:
        return self.weights == SEEDED_WEIGHTS


def seeded_tower(seed: int, shape: Shape = VIT_L_14) -> Tower:
    """The true architecture with random weights: those of open_clip's own construction after
    `torch.manual_seed(seed)`. The global random state is left as it was.
    """
    return seeded(seed, lambda: build_vision_transformer(shape))


def seeded(seed: int, build: Callable[[], nn.Module]) -> Tower:
    """What `build` constructs after `torch.manual_seed(seed)`; the global state stays as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build()
    return Tower(module, SEEDED_WEIGHTS, f"seeded:{seed}", extra={"seed": seed})


def tower_from_state(
    state: Mapping[str, torch.Tensor],
    *,
    sha256: str,
    source: str,
    weights: str = "openai",
    shape: Shape = VIT_L_14,
) -> Tower:
    """A tower with the weights of `state`, named as open_clip names them (see checkpoints.py).

    Raises InputError when a tensor is missing, left over or of another shape.
    """
    module = build_vision_transformer(shape)
    load_weights(module, state, f"{source} holds no ViT-L/14 image tower")
    return Tower(module, weights, source, sha256)


def load_weights(module: nn.Module, state: Mapping[str, torch.Tensor], otherwise: str) -> None:
    """Put all of `state` into all of `module`. Raises InputError, which begins with `otherwise`."""
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        first = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise InputError(f"{otherwise}: {first[:300]}") from None


def build_vision_transformer(shape: Shape) -> nn.Module:
    """open_clip's vision transformer with QuickGELU, random weights, in eval mode."""
    transformer = open_clip_transformer()
    module: nn.Module = transformer.VisionTransformer(
        image_size=IMAGE_SIZE,
        patch_size=shape.patch,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        mlp_ratio=shape.mlp_ratio,
        output_dim=EMBEDDING_DIM,
        act_layer=transformer.QuickGELU,
    )
    return module.eval().requires_grad_(False)


def check_quick_gelu(module: nn.Module) -> int:
    """The number of layers, each of which was found to compute QuickGELU.

    What an activation computes decides, not what its class is called.
    Raises ActivationError for a layer with another activation, or with one that cannot be found.
    """
    import torch

    grid = torch.linspace(-6, 6, 241)
    expected = grid * torch.sigmoid(QUICK_GELU_FACTOR * grid)
    blocks = getattr(getattr(module, "transformer", None), "resblocks", None)
    if not blocks:
        raise ActivationError("the tower has no transformer.resblocks: its activation is unknown")
    for index, block in enumerate(blocks):
        activation = getattr(getattr(block, "mlp", None), "gelu", None)
        if activation is None:
            raise ActivationError(f"layer {index} of the tower has no activation to be found")
        with torch.no_grad():
            difference = float((activation(grid) - expected).abs().max())
        if not difference <= ACTIVATION_TOLERANCE:
            raise ActivationError(
                f"layer {index} of the tower computes {type(activation).__name__}, not QuickGELU "
                f"(difference {difference:.1e}); OpenAI's weights need ViT-L-14-quickgelu"
            )
    return len(blocks)
