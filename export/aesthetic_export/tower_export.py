"""The image tower as files, once a profile, each compared with the fp32 torch module."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aesthetic_client import contract
from aesthetic_client.contract import BF16, DEFAULT_PROFILE, INT8, ONNX_CUDA, Profile
from aesthetic_export import artifacts, openvino_export, parity, provenance, samples
from aesthetic_export.certification import Exported, Say, certified
from aesthetic_export.heads import HeadWeights
from aesthetic_export.measures import FloatArray, distinct
from aesthetic_export.onnx_export import (
    ExportError,
    check_half_graph,
    check_quick_gelu_graph,
    onnx_from_module,
)
from aesthetic_export.parity import Pixels
from aesthetic_export.tolerances import Score, tower_tolerance
from aesthetic_export.towers import Tower, check_quick_gelu

if TYPE_CHECKING:
    from aesthetic_export.modules import ClipImage

PROFILES = (DEFAULT_PROFILE, ONNX_CUDA, BF16, INT8)  # those that are files of the tower's alone
RANGE_IMAGES = 2
REFERENCE_BATCH = 8


@dataclass(frozen=True)
class Comparison:
    """What every profile is compared on: images, their fp32 embeddings, and heads to score with.

    `remark` says what the figures do not show.
    """

    module: ClipImage
    images: samples.Images
    embeddings: FloatArray
    scorer: Score
    remark: str | None = None

    def of(self, profile: Profile, embed: parity.Embed) -> parity.ParityReport:
        """Each image in a batch of one, or in a larger one, and two of them in both."""
        count = samples.PARITY_IMAGES if profile.backend == "onnxruntime" else len(self.embeddings)
        pixels, embeddings = self.images.compared[:count], self.embeddings[:count]
        size = contract.MAX_IMAGE_BATCH
        exact = profile.precision == DEFAULT_PROFILE.precision
        return parity.clip_image_parity(
            embed,
            embeddings,
            self.scorer,
            pixels,
            batches=[
                *([0], [1]),
                *(range(at, min(at + size, len(pixels))) for at in range(0, len(pixels), size)),
            ],
            tolerance=tower_tolerance(profile.precision, self.scorer, embeddings[:size]),
            artifact=profile.artifact,
            against="its torch module" if exact else "its fp32 torch module",
            inputs=self.images.kind,
            remark=None if exact else self.remark,
        )


def profiles_to_make(existing: Path, tower: Tower, precisions: Collection[str]) -> list[Profile]:
    """Of `precisions`, and fp32 where there is none of `tower` in the version folder `existing`."""
    wanted = set(precisions)
    kept = provenance.read_provenance(existing)
    if not (
        artifacts.has_artifact(existing, DEFAULT_PROFILE)
        and provenance.same_tower(kept, provenance.tower_provenance(tower))
    ):
        wanted.add(DEFAULT_PROFILE.precision)
    return [profile for profile in PROFILES if profile.precision in wanted]


def export_tower(
    folder: Path,
    tower: Tower,
    heads: Sequence[HeadWeights],
    images: Pixels | None,
    say: Say,
    profiles: Sequence[Profile] = (DEFAULT_PROFILE,),
) -> dict[Profile, Exported]:
    """Write `clip_image` into `folder`, once a profile, and compare each with fp32 torch.

    Raises ActivationError, ExportError or ParityError.
    """
    layers = check_quick_gelu(tower.module)
    comparison = _comparison(tower, heads, images, profiles)
    made: dict[Profile, Exported] = {}
    for profile in profiles:
        known = provenance.tower_provenance(tower, profile)
        say(f"exporting clip_image in {profile.precision} ({layers} layers, {tower.weights})")
        if profile.backend == "openvino":
            files = _write_openvino(comparison, tower, profile, folder, known, say)
            embed = openvino_export.openvino_embedder(files[0])
        else:
            files = _write_onnx(comparison, profile, folder, known, layers, say)
            embed = parity.onnx_embedder(files[0])
        say(f"comparing clip_image in {profile.precision} with its torch module")
        report = comparison.of(profile, embed)
        made[profile] = report, certified(known, files, report)
    return made


def _write_onnx(
    comparison: Comparison,
    profile: Profile,
    folder: Path,
    known: provenance.Provenance,
    layers: int,
    say: Say,
) -> tuple[Path, ...]:
    half = profile.precision == "fp16"
    exported = _half_of(comparison.module) if half else comparison.module
    files = onnx_from_module(
        exported,
        contract.CLIP_IMAGE,
        folder,
        artifact=profile.artifact,
        metadata=provenance.metadata_of(known),
        external_data=True,  # ONNX Runtime loads it in half the time of one large file
    )
    check_quick_gelu_graph(files[0], layers)
    if half:
        check_half_graph(files[0])
        say("looking at the range of every fp16 number")
        known["fp16_ranges"] = _checked_ranges(exported, comparison.images.compared)
    return files


def _write_openvino(
    comparison: Comparison,
    tower: Tower,
    profile: Profile,
    folder: Path,
    known: provenance.Provenance,
    say: Say,
) -> tuple[Path, ...]:
    cpu = openvino_export.this_cpu()
    known |= {"cpu": cpu.name, "cpu_computes": list(cpu.types)}
    if profile is INT8:
        known["calibration"] = comparison.images.calibration_note
        known["calibration_sha256"] = sha256(comparison.images.calibration.tobytes()).hexdigest()
    if lacking := cpu.lacking(profile):
        say(
            f"this CPU has no instructions for {' and '.join(lacking)}: {profile.precision} is "
            "compared as it is computed here, which is not how a CPU that has them does"
        )
    calibration, metadata = comparison.images.calibration, provenance.metadata_of(known)
    return openvino_export.write_tower(tower.module, profile, folder, calibration, metadata)


def _comparison(
    tower: Tower,
    heads: Sequence[HeadWeights],
    images: Pixels | None,
    profiles: Sequence[Profile],
) -> Comparison:
    from aesthetic_export.modules import AestheticHeads, ClipImage

    module = ClipImage(tower.module)
    certified_on_many = any(profile.backend == "openvino" for profile in profiles)
    chosen = samples.images_to_compare(images, many=certified_on_many)
    embeddings = np.concatenate(
        [
            parity.run_torch(module, chosen.compared[at : at + REFERENCE_BATCH])[0]
            for at in range(0, len(chosen.compared), REFERENCE_BATCH)
        ]
    )
    if certified_on_many:  # among many photographs some are nearly the same
        kept = distinct(embeddings, 2 * parity.MIN_SPREAD)
        if len(kept) > 1:
            chosen, embeddings = chosen.only(kept), embeddings[kept]
    remark = f"weights: {tower.weights}; trained ones differ by more" if tower.seeded else None
    return Comparison(
        module, chosen, embeddings, parity.torch_scorer(AestheticHeads(heads)), remark
    )


def _half_of(module: ClipImage) -> ClipImage:
    from aesthetic_export.half import HalfTower
    from aesthetic_export.modules import ClipImage

    return ClipImage(HalfTower(module.tower))


def _checked_ranges(module: ClipImage, pixels: Pixels) -> dict[str, object]:
    """Raises ExportError when the weights at hand lead out of fp16's range."""
    import torch

    from aesthetic_export.ranges import ranges_of

    found = ranges_of(module, torch.from_numpy(pixels[:RANGE_IMAGES]))
    if not found:
        raise ExportError(f"these weights do not fit fp16: {found.summary()}")
    return found.as_dict()
