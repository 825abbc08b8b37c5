"""`model.plan` for `clip_image`: built from the fp16 ONNX file, compared on the GPU, described."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aesthetic_client import contract
from aesthetic_client.contract import CLIP_IMAGE, DEFAULT_PROFILE, ONNX_CUDA, TENSORRT
from aesthetic_client.errors import InputError
from aesthetic_export import parity, provenance, samples
from aesthetic_export.cuda import Device, Gpu
from aesthetic_export.files import sha256_of
from aesthetic_export.onnx_export import data_name
from aesthetic_export.repository import Exported, Say, certified
from aesthetic_export.tensorrt_builder import Batches, OnPhase, plan_from_onnx
from aesthetic_export.tensorrt_runner import PlanRunner

Phases = Callable[[], AbstractContextManager[OnPhase]]


@dataclass(frozen=True)
class PlanMaker:
    """What it takes to make a plan here: TensorRT's bindings, an open GPU, and where to cache.

    Called with clip_image's and aesthetic_heads' version folders (repository.MakePlan).
    """

    trt: Any
    gpu: Gpu
    cache: Path
    phases: Phases
    batches: Batches = Batches()  # noqa: RUF009  # frozen
    images: parity.Pixels | None = None

    def __call__(self, version: Path, heads: Path, say: Say) -> Exported:
        """Write `model.plan` into `version`.

        Raises InputError for missing ONNX files, PlanBuildError, CudaError, ParityError.
        """
        onnx, known = _onnx_of(version)
        _require(heads / DEFAULT_PROFILE.artifact)
        device = self.gpu.describe()
        say(
            f"building {TENSORRT.artifact} with TensorRT {self.trt.__version__} for {device.name} "
            f"(compute capability {device.compute_capability}); minutes, the first time"
        )
        begun = time.monotonic()
        with self.phases() as on_phase:
            plan = plan_from_onnx(
                self.trt,
                onnx,
                batches=self.batches,
                timing_cache=self.cache / timing_cache_name(self.trt.__version__, device),
                on_phase=on_phase,
            )
        build_s = time.monotonic() - begun
        path = version / TENSORRT.artifact
        path.write_bytes(memoryview(plan))
        say(f"comparing {TENSORRT.artifact} on the GPU with the fp32 ONNX file on the CPU")
        report = self._compare(plan, version, heads)
        described = self._describe(onnx, known, device, path, build_s)
        return report, certified(described, [path], report)

    def _compare(self, plan: Any, version: Path, heads: Path) -> parity.ParityReport:
        pixels = samples.made_up_images() if self.images is None else self.images
        largest = self.batches.max
        runner = PlanRunner(self.trt, plan, self.gpu, max_batch=largest)
        reference = parity.onnx_embedder(version / DEFAULT_PROFILE.artifact)(pixels)
        scorer = parity.onnx_scorer(heads / DEFAULT_PROFILE.artifact)
        return parity.clip_image_parity(
            runner.embed,
            reference,
            scorer,
            pixels,
            batches=[
                [0],
                [1],
                range(min(len(pixels), largest)),
                [i % len(pixels) for i in range(largest)],
            ],
            tolerance=parity.fp16_tolerance(scorer, reference),
            artifact=TENSORRT.artifact,
            against="the fp32 ONNX file",
        )

    def _describe(
        self, onnx: Path, known: provenance.Provenance, device: Device, plan: Path, build_s: float
    ) -> provenance.Provenance:
        made = provenance.made_now()
        data = onnx.with_name(data_name(onnx.name))
        return {
            **{field: known[field] for field in provenance.TOWER_FIELDS if field in known},
            **made,
            "tensorrt": str(self.trt.__version__),
            "gpu": device.name,
            "compute_capability": device.compute_capability,
            "driver": device.driver,
            "driver_cuda": device.cuda,
            "profile": {
                name: dict(zip(("min", "opt", "max"), map(list, shapes), strict=True))
                for name, shapes in self.batches.shapes(CLIP_IMAGE).items()
            },
            "onnx_sha256": sha256_of(onnx),
            "onnx_data_sha256": sha256_of(data) if data.is_file() else None,
            "onnx_bytes": onnx.stat().st_size + (data.stat().st_size if data.is_file() else 0),
            "plan_bytes": plan.stat().st_size,
            "build_s": round(build_s, 1),
        }


def missing_onnx(repository: Path) -> list[str]:
    """What a plan is made of and a repository lacks, as paths within it."""
    wanted = [
        f"{CLIP_IMAGE.name}/1/{DEFAULT_PROFILE.artifact}",
        f"{CLIP_IMAGE.name}/1/{ONNX_CUDA.artifact}",
        f"{contract.AESTHETIC_HEADS.name}/1/{DEFAULT_PROFILE.artifact}",
    ]
    return [name for name in wanted if not (repository / name).is_file()]


def timing_cache_name(version: str, device: Device) -> str:
    """Timings are of one TensorRT version on one GPU."""
    gpu = device.name.replace(" ", "-").replace("/", "-")
    return f"tensorrt-{version}-{gpu}-{device.compute_capability}.timing"


def _onnx_of(version: Path) -> tuple[Path, provenance.Provenance]:
    """The fp16 ONNX file and its provenance. Raises InputError."""
    _require(version / DEFAULT_PROFILE.artifact)
    path = _require(version / ONNX_CUDA.artifact)
    known = provenance.read_provenance(version, ONNX_CUDA)
    if known is None:
        raise InputError(f"{path.name} has no provenance: export it with --precision fp16")
    return path, known


def _require(path: Path) -> Path:
    if not path.is_file():
        raise InputError(
            f"a plan is made from {path.name} of {path.parent.parent.name}, which is not there"
        )
    return path
