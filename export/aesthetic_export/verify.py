"""A running server against published scores: embeddings through the heads, and whole images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aesthetic_client import Client, contract
from aesthetic_client.errors import InputError
from aesthetic_export.files import FileStore, PinnedFile, UnreachableError
from aesthetic_export.golden import (
    EMBEDDING_TOLERANCE,
    GOLDEN_EMBEDDINGS,
    GOLDEN_HEADS,
    GOLDEN_IMAGES,
    IMAGE_TOLERANCE,
)


@dataclass(frozen=True)
class Check:
    """One published score and the server's. `found` is None where the server has no such head."""

    item: str
    head: str
    expected: float
    found: float | None
    tolerance: float

    @property
    def difference(self) -> float:
        return abs(self.found - self.expected) if self.found is not None else float("nan")

    def __bool__(self) -> bool:
        return self.difference <= self.tolerance  # a NaN is not


@dataclass(frozen=True)
class Verification:
    """Every check, what failed as a whole, and what was not run and why. True when all is well."""

    checks: tuple[Check, ...] = ()
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.checks) and not self.failures and all(self.checks)

    def __add__(self, other: Verification) -> Verification:
        return Verification(
            self.checks + other.checks, self.failures + other.failures, self.notes + other.notes
        )


def verify(client: Client, store: FileStore, images: Path | None = None) -> Verification:
    """Check the server's heads on published embeddings, and its tower on published images.

    `images` is a folder that holds some of the published images.
    Raises InputError when the embeddings are neither here nor to be had, and the client's errors.
    """
    provenance = client.provenance()
    return verify_embeddings(client, store, provenance) + verify_images(client, images, provenance)


def verify_embeddings(
    client: Client, store: FileStore, provenance: Mapping[str, Mapping[str, Any]]
) -> Verification:
    """Published embeddings through `aesthetic_heads`, within EMBEDDING_TOLERANCE."""
    weights = provenance.get(contract.AESTHETIC_HEADS.name, {}).get("weights")
    if weights == contract.SEEDED_WEIGHTS:
        return Verification(failures=(f"the served heads are {weights}",))
    note = () if weights else ("the server does not say where its heads come from",)
    embeddings = np.stack([golden_embedding(store, golden.file) for golden in GOLDEN_EMBEDDINGS])
    scores = client.score_embeddings_by_head(embeddings, normalize=True)
    checks = [
        Check(golden.file.name, head, expected, _at(scores, head, row), EMBEDDING_TOLERANCE)
        for row, golden in enumerate(GOLDEN_EMBEDDINGS)
        for head, expected in zip(GOLDEN_HEADS, golden.scores, strict=True)
    ]
    missing = [head for head in GOLDEN_HEADS if head not in scores]
    failures = tuple(f"the server has no head {head}" for head in missing)
    return Verification(tuple(checks), failures, note)


def verify_images(
    client: Client, folder: Path | None, provenance: Mapping[str, Mapping[str, Any]]
) -> Verification:
    """Published images through the whole ensemble, within IMAGE_TOLERANCE; or a note why not."""
    weights = provenance.get(contract.CLIP_IMAGE.name, {}).get("weights")
    if weights == contract.SEEDED_WEIGHTS:
        return Verification(notes=(f"image checks were not run: the served tower is {weights}",))
    if folder is None:
        return Verification(
            notes=("image checks were not run: --images names no folder of published images",)
        )
    files = {path.name: path for path in sorted(folder.rglob("*"))}
    here = [golden for golden in GOLDEN_IMAGES if golden.name in files]
    if not here:
        names = ", ".join(golden.name for golden in GOLDEN_IMAGES)
        return Verification(notes=(f"image checks were not run: {folder} has none of {names}",))
    checks = []
    for golden in here:
        score = client.score(_as_png(files[golden.name])).score
        head = contract.DEFAULT_HEAD.name
        checks.append(Check(golden.name, head, golden.score, float(score), IMAGE_TOLERANCE))
    return Verification(tuple(checks))


def golden_embedding(store: FileStore, file: PinnedFile) -> npt.NDArray[np.float32]:
    """A published embedding, (768,) fp32, not normalised. Raises InputError."""
    try:
        path = store.obtain(file)
    except UnreachableError:
        raise UnreachableError(
            f"the published embedding {file.name} is not on this machine and {file.url} cannot be "
            "reached; download it elsewhere and name its folder with --golden"
        ) from None
    if path.name.endswith(".npy"):
        array = np.load(path, allow_pickle=False)
    else:
        import torch

        array = torch.load(path, map_location="cpu", weights_only=True).detach().float().numpy()
    embedding: npt.NDArray[np.float32] = array.astype(np.float32).reshape(contract.EMBEDDING_DIM)
    return embedding


def _at(scores: Mapping[str, npt.NDArray[np.float32]], head: str, row: int) -> float | None:
    return float(scores[head][row]) if head in scores else None


def _as_png(path: Path) -> bytes:
    """The image losslessly as PNG: a server need not accept BMP. Raises InputError."""
    from PIL import Image

    buffer = io.BytesIO()
    try:
        with Image.open(path) as image:
            image.save(buffer, "PNG")
    except OSError:
        raise InputError(f"{path} is not a readable image") from None
    return buffer.getvalue()
