"""A tower small enough for tests, and the repository that serves it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aesthetic_export import tolerances
from aesthetic_export.files import FileStore
from aesthetic_export.heads import published_heads, seeded_heads
from aesthetic_export.repository import build_repository
from aesthetic_export.towers import Shape, Tower, seeded_tower

TINY = Shape(width=64, layers=2, heads=2)


def tiny_tower(seed: int = 0) -> Tower:
    """Two layers of width 64 in the true outer shape, random weights.

    Its scales are chosen so that other pixels give clearly other embeddings: without them, the
    embeddings of random towers are so alike that images could change places in a batch unnoticed.
    """
    tower = seeded_tower(seed, TINY)
    module = tower.module
    with torch.no_grad():
        module.conv1.weight *= 20
        module.positional_embedding *= 0.1
        module.class_embedding *= 0.1
        for block in module.transformer.resblocks:
            for weight in (block.attn.in_proj_weight, block.attn.out_proj.weight):
                weight *= 4
            block.mlp.c_proj.weight *= 4
    return tower


def build_tiny_repository(target: Path, heads_dir: Path | None = None, *, seed: int = 0) -> Path:
    """Export the tiny tower with the real heads of `heads_dir`, or seeded ones; returns `target`.

    Takes about eight seconds.
    """
    if heads_dir is None:
        heads = seeded_heads(seed)
    else:
        heads = published_heads(FileStore(target.parent / f".{target.name}-cache", (heads_dir,)))
    build_repository(target, tower=tiny_tower(seed), heads=heads)
    return target


def allow_for_tiny(patch: pytest.MonkeyPatch) -> None:
    """64 channels round more roughly than 1024 do."""
    patch.setitem(tolerances._LIMITS, "bf16", (0.2, 0.99))
    patch.setitem(tolerances._LIMITS, "int8", (1.0, 0.8))


def add_cpu_profiles(target: Path) -> Path:
    """Export the tiny tower in bf16 and int8 too; returns `target`."""
    with pytest.MonkeyPatch.context() as patch:
        allow_for_tiny(patch)
        build_repository(target, tower=tiny_tower(), precisions=["bf16", "int8"])
    return target
