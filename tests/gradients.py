"""The tiny tower's gradient model, exported once for all tests, and repositories that serve it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aesthetic_client import contract
from aesthetic_client.contract import AESTHETIC_GRADIENT, GRADIENT
from aesthetic_export.gradient_export import export_gradient
from aesthetic_export.gradient_parity import GradientReport
from aesthetic_export.heads import HeadWeights, seeded_heads
from aesthetic_export.repository import build_repository
from towers import tiny_tower


class GradientExport(NamedTuple):
    folder: Path  # the version folder
    report: GradientReport
    provenance: dict[str, Any]


def export_tiny_gradient(folder: Path) -> GradientExport:
    """Of `tiny_tower()` and `seeded_heads(0)`; takes about ten seconds."""
    report, known = export_gradient(folder, tiny_tower(), seeded_heads(0))
    assert isinstance(report, GradientReport)
    return GradientExport(folder, report, known)


def build_gradient_repository(
    target: Path, exported: GradientExport, heads: Sequence[HeadWeights] | None = None
) -> Path:
    """A servable repository of the gradient model alone, or with `aesthetic_heads`."""

    def filled(version: Path, _: object) -> Any:
        shutil.copytree(exported.folder, version, dirs_exist_ok=True)
        return exported.report, exported.provenance

    makers = {AESTHETIC_GRADIENT.name: filled}
    build_repository(target, heads=heads, add_ons=[GRADIENT], makers=makers)
    for model in contract.MODELS:
        if heads is None or model is not contract.AESTHETIC_HEADS:
            shutil.rmtree(target / model.name)
    return target
