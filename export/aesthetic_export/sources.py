"""Weights as asked for, with `auto`'s one exception: no network means random ones, loudly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aesthetic_client.errors import InputError
from aesthetic_export.checkpoints import tower_state
from aesthetic_export.files import FileStore, UnreachableError
from aesthetic_export.heads import HeadWeights, published_heads, seeded_heads
from aesthetic_export.text_checkpoints import text_tower_state
from aesthetic_export.text_towers import (
    VIT_L_14_TEXT,
    TextShape,
    seeded_text_tower,
    text_tower_from_state,
)
from aesthetic_export.towers import Tower, seeded_tower, tower_from_state
from aesthetic_export.weights import KNOWN, WeightsSpec, tower_file

if TYPE_CHECKING:
    import torch

Warn = Callable[[str], None]

FALLBACK_SEED = 0
HEADS_USAGE = "published, auto (the same, or seeded:0 without a network), or seeded:N"


def load_tower(spec: WeightsSpec, store: FileStore, warn: Warn) -> Tower:
    """The image tower that `spec` names, its weights' hash checked.

    `auto` goes on with `seeded:0`, and tells `warn`, only when the weights cannot be reached.
    Raises InputError, UnreachableError and WrongFileError among them.
    """
    return _load(spec, store, warn, seeded_tower, tower_state, tower_from_state)


def load_text_tower(
    spec: WeightsSpec, store: FileStore, warn: Warn, shape: TextShape = VIT_L_14_TEXT
) -> Tower:
    """The text tower of the same weights, under the same rules."""
    return _load(
        spec,
        store,
        warn,
        partial(seeded_text_tower, shape=shape),
        text_tower_state,
        partial(text_tower_from_state, shape=shape),
    )


def _load(
    spec: WeightsSpec,
    store: FileStore,
    warn: Warn,
    seeded: Callable[[int], Tower],
    read: Callable[[Path], dict[str, torch.Tensor]],
    build: Callable[..., Tower],
) -> Tower:
    if spec.kind == "seeded":
        return seeded(spec.seed)
    try:
        path, sha256, source = tower_file(spec, store)
    except UnreachableError as error:
        if spec.kind != "auto":
            raise UnreachableError(
                f"{error.message}; or go on with random weights, whose scores mean nothing: "
                f"--weights auto or --weights seeded:{FALLBACK_SEED}"
            ) from None
        warn(
            f"{error.message}\nGoing on with seeded:{FALLBACK_SEED}: the true architecture with "
            "RANDOM weights. THE SCORES WILL BE MEANINGLESS."
        )
        return seeded(FALLBACK_SEED)
    weights = "openai" if sha256 in KNOWN else path.name
    return build(read(path), sha256=sha256, source=source, weights=weights)


def load_heads(choice: str, store: FileStore, warn: Warn) -> tuple[HeadWeights, ...]:
    """Every head of the contract by `choice`; see HEADS_USAGE.

    Under `auto` one head that cannot be reached makes all of them seeded, and tells `warn`.
    Raises InputError for another choice, or as the download does.
    """
    if choice.startswith("seeded:") and choice[7:].isascii() and choice[7:].isdigit():
        return seeded_heads(int(choice[7:]))
    if choice not in ("published", "auto"):
        raise InputError(f"{choice!r} names no heads; use {HEADS_USAGE}")
    try:
        return published_heads(store)
    except UnreachableError as error:
        if choice != "auto":
            raise
        warn(
            f"{error.message}\nGoing on with RANDOM heads of the true shape. "
            "THE SCORES WILL BE MEANINGLESS."
        )
        return seeded_heads(FALLBACK_SEED)
