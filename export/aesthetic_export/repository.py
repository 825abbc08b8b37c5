"""A complete servable model repository: sources, artifacts, their parity and provenance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aesthetic_client import contract
from aesthetic_export import folders, parity, provenance, samples
from aesthetic_export.files import sha256_of
from aesthetic_export.heads import HeadWeights, seeded_heads
from aesthetic_export.onnx_export import (
    ARTIFACT,
    ARTIFACT_DATA,
    check_quick_gelu_graph,
    onnx_from_module,
)
from aesthetic_export.towers import Tower, check_quick_gelu

if TYPE_CHECKING:
    from aesthetic_export.modules import AestheticHeads

Say = Callable[[str], None]
Reports = dict[str, parity.ParityReport]

HEADS_PARITY_VECTORS = 512


def build_repository(
    target: Path,
    *,
    tower: Tower | None = None,
    heads: Sequence[HeadWeights] | None = None,
    comparison_heads: Sequence[HeadWeights] | None = None,
    images: npt.NDArray[np.uint8] | None = None,
    source: Path | None = None,
    say: Say = lambda _: None,
) -> Reports:
    """Build or renew the servable repository `target`, all of it or nothing.

    A `tower` becomes `clip_image`, `heads` become `aesthetic_heads`; the artifact of the one that
    is not given is kept. `comparison_heads` turn the tower's differences into scores where `heads`
    are not exported (seeded ones by default). `images` (n, 224, 224, 3) uint8 are what the parity
    check looks at, `source` the hand-written repository. Returns the parity reports by model.

    Raises ParityError when an artifact does not compute what its module does, ActivationError for a
    tower without QuickGELU, InputError for a target that cannot be used. Nothing changes then.
    """
    source = source or folders.source_repository()
    folders.check_target(target, source)
    reports: Reports = {}
    names = sorted(path.parent.name for path in source.glob("*/config.pbtxt"))
    with folders.exclusive(target), folders.staged(target, names) as stages:
        for name, stage in stages.items():
            version = folders.copy_model(source / name, stage)
            known: provenance.Provenance | None = None
            if name == contract.CLIP_IMAGE.name and tower is not None:
                scorers = heads or comparison_heads or seeded_heads(0)
                reports[name], known = export_tower(version, tower, scorers, images, say)
            elif name == contract.AESTHETIC_HEADS.name and heads is not None:
                reports[name], known = export_heads(version, heads, say)
            else:
                known = _keep_artifact(target / name / "1", version)
            if known is not None:
                provenance.write_provenance(version, known)
                _annotate(stage, known)
    return reports


def export_tower(
    folder: Path,
    tower: Tower,
    heads: Sequence[HeadWeights],
    images: npt.NDArray[np.uint8] | None,
    say: Say,
) -> tuple[parity.ParityReport, provenance.Provenance]:
    """Write `clip_image` into `folder` and compare it. Raises ActivationError or ParityError."""
    from aesthetic_export.modules import AestheticHeads, ClipImage

    layers = check_quick_gelu(tower.module)
    known = provenance.tower_provenance(tower)
    module = ClipImage(tower.module)
    say(f"exporting clip_image ({layers} layers, {tower.weights})")
    files = onnx_from_module(
        module,
        contract.CLIP_IMAGE,
        folder,
        metadata=provenance.metadata_of(known),
        external_data=True,  # ONNX Runtime loads it in half the time of one large file
    )
    check_quick_gelu_graph(files[0], layers)
    say("comparing clip_image with its torch module")
    pixels = samples.made_up_images() if images is None else images
    scorer: AestheticHeads = AestheticHeads(heads)
    report = parity.clip_image_parity(
        files[0], module, scorer, pixels, batches=[[0], [1], range(len(pixels))]
    )
    return report, _certified(known, files, report)


def export_heads(
    folder: Path, heads: Sequence[HeadWeights], say: Say
) -> tuple[parity.ParityReport, provenance.Provenance]:
    """Write `aesthetic_heads` into `folder` and compare it. Raises ParityError."""
    from aesthetic_export.modules import AestheticHeads

    known = provenance.heads_provenance(heads)
    say(f"exporting aesthetic_heads ({known['weights']})")
    module = AestheticHeads(heads)
    files = onnx_from_module(
        module, contract.AESTHETIC_HEADS, folder, metadata=provenance.metadata_of(known)
    )
    vectors = samples.unit_vectors(HEADS_PARITY_VECTORS)
    report = parity.heads_parity(files[0], module, vectors, batches=[[0], [1], range(len(vectors))])
    return report, _certified(known, files, report)


def _certified(
    known: provenance.Provenance, files: Sequence[Path], report: parity.ParityReport
) -> provenance.Provenance:
    if not report:
        raise parity.ParityError(report)
    hashes = {path.name: sha256_of(path) for path in files}
    return {**known, "artifact_sha256": hashes, "parity": report.as_dict()}


def _keep_artifact(existing: Path, version: Path) -> provenance.Provenance | None:
    """Carry an earlier export's artifact over; its provenance, if it has any."""
    for name in (ARTIFACT, ARTIFACT_DATA):
        if (existing / name).is_file():
            folders.link_file(existing / name, version)
    return provenance.read_provenance(existing)


def _annotate(model_folder: Path, known: provenance.Provenance) -> None:
    configs = [model_folder / "config.pbtxt", *sorted(model_folder.glob("configs/*.pbtxt"))]
    for config in configs:
        text = provenance.config_with_provenance(config.read_text("utf-8"), known)
        config.write_text(text, "utf-8")
