"""`model.plan` for each of contract.PLANS: built from its ONNX file, compared, described.

The tower's plan must pass; the heads' and the gradient's are optional: where TensorRT does not
build one, or its scores are off, it is not written and the ONNX file goes on serving.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aesthetic_client import contract
from aesthetic_client.contract import (
    AESTHETIC_GRADIENT,
    AESTHETIC_HEADS,
    CLIP_IMAGE,
    DEFAULT_PROFILE,
    HEADS_PLAN,
    TENSORRT,
    TOWER_PLAN,
    Plan,
    Profile,
)
from aesthetic_client.errors import InputError
from aesthetic_export import artifacts, parity, provenance, samples
from aesthetic_export.added_heads import heads_model, names_of
from aesthetic_export.certification import Exported, Say, certified
from aesthetic_export.cuda import Device, Gpu
from aesthetic_export.files import sha256_of
from aesthetic_export.gradient_parity import gradient_parity, onnx_gradient, onnx_reference
from aesthetic_export.onnx_export import data_name
from aesthetic_export.tensorrt_builder import Batches, OnPhase, PlanBuildError, plan_from_onnx
from aesthetic_export.tensorrt_runner import PlanRunner
from aesthetic_export.tolerances import tower_tolerance

Phases = Callable[[], AbstractContextManager[OnPhase]]
AGAINST = "the fp32 ONNX file"


@dataclass(frozen=True)
class PlanMaker:
    """What it takes to make plans here: TensorRT's bindings, an open GPU, and where to cache.

    `tower_opt` is the batch that the tower's plan is tuned for, the contract's by default; `images`
    (n, 224, 224, 3) are what it is compared on.
    """

    trt: Any
    gpu: Gpu
    cache: Path
    phases: Phases
    tower_opt: int | None = None
    images: parity.Pixels | None = None

    def __post_init__(self) -> None:
        """Raises InputError for a `tower_opt` that the plan cannot be tuned for."""
        self._batches(TOWER_PLAN)

    def __call__(self, plan: Plan, versions: Mapping[str, Path], say: Say) -> Exported | None:
        """Write `model.plan` into the version folder of the plan's model (repository.MakePlan).

        None where an optional plan is refused. Raises InputError for missing ONNX files, CudaError,
        and for a plan that is not optional PlanBuildError and ParityError.
        """
        try:
            return self._made(plan, versions, say)
        except (PlanBuildError, parity.ParityError) as error:
            if not plan.optional:
                raise
            artifacts.drop_artifact(versions[plan.model.name], TENSORRT)
            say(
                f"{error}\n{plan.model.name} has no {TENSORRT.artifact} therefore: in the profile "
                f"{TENSORRT.name!r} its {plan.source.artifact} goes on serving"
            )
            return None

    def _made(self, plan: Plan, versions: Mapping[str, Path], say: Say) -> Exported:
        version, batches = versions[plan.model.name], self._batches(plan)
        onnx, known = _onnx_of(version, plan.source)
        model = heads_model(names_of(known)) if plan is HEADS_PLAN else plan.model
        device = self.gpu.describe()
        say(
            f"building {TENSORRT.artifact} of {plan.model.name} with TensorRT "
            f"{self.trt.__version__} for {device.name} (compute capability "
            f"{device.compute_capability}); minutes, the first time"
        )
        begun = time.monotonic()
        with self.phases() as on_phase:
            built = plan_from_onnx(
                self.trt,
                onnx,
                model=model,
                batches=batches,
                timing_cache=self.cache / timing_cache_name(self.trt.__version__, device),
                on_phase=on_phase,
            )
        build_s = time.monotonic() - begun
        path = version / TENSORRT.artifact
        path.write_bytes(memoryview(built))
        say(f"comparing {TENSORRT.artifact} on the GPU with {AGAINST} on the CPU")
        runner = PlanRunner(self.trt, built, self.gpu, model=model, max_batch=batches.max)
        compare = {
            CLIP_IMAGE.name: self._compare_tower,
            AESTHETIC_HEADS.name: self._compare_heads,
            AESTHETIC_GRADIENT.name: self._compare_gradient,
        }
        report = compare[plan.model.name](runner, batches, versions)
        described = {
            **{field: known[field] for field in provenance.WEIGHTS_FIELDS if field in known},
            **provenance.made_now(),
            "tensorrt": str(self.trt.__version__),
            "gpu": device.name,
            "compute_capability": device.compute_capability,
            "driver": device.driver,
            "driver_cuda": device.cuda,
            "profile": {
                name: dict(zip(("min", "opt", "max"), map(list, shapes), strict=True))
                for name, shapes in batches.shapes(plan.model).items()
            },
            **_sizes_and_hashes(onnx),
            "plan_bytes": path.stat().st_size,
            "build_s": round(build_s, 1),
        }
        return report, certified(described, [path], report)

    def _batches(self, plan: Plan) -> Batches:
        return Batches.of(plan, self.tower_opt if plan is TOWER_PLAN else None)

    def _compare_tower(
        self, runner: PlanRunner, batches: Batches, versions: Mapping[str, Path]
    ) -> parity.ParityReport:
        """On images, in cosine and in the scores of the ONNX heads."""
        pixels = samples.made_up_images() if self.images is None else self.images
        onnx = _require(versions[CLIP_IMAGE.name] / DEFAULT_PROFILE.artifact)
        reference = parity.onnx_embedder(onnx)(pixels)
        heads = _require(versions[AESTHETIC_HEADS.name] / DEFAULT_PROFILE.artifact)
        scorer = parity.onnx_scorer(heads, published=True)
        return parity.clip_image_parity(
            lambda images: runner.run(images)[0],
            reference,
            scorer,
            pixels,
            batches=[
                [0],
                [1],
                range(min(len(pixels), batches.max)),
                [i % len(pixels) for i in range(batches.max)],
            ],
            tolerance=tower_tolerance(TENSORRT.precision, scorer, reference),
            artifact=TENSORRT.artifact,
            against=AGAINST,
        )

    def _compare_heads(
        self, runner: PlanRunner, batches: Batches, versions: Mapping[str, Path]
    ) -> parity.ParityReport:
        """On as many different unit vectors as travel together at most, in scores."""
        vectors = samples.unit_vectors(batches.max)
        score = parity.onnx_scorer(versions[AESTHETIC_HEADS.name] / DEFAULT_PROFILE.artifact)
        return parity.heads_parity(
            runner.run,
            score(vectors),
            vectors,
            batches=[[0], [1], range(batches.opt), range(batches.max)],
            artifact=TENSORRT.artifact,
            against=AGAINST,
            heads=names_of(provenance.read_provenance(versions[AESTHETIC_HEADS.name])),
        )

    def _compare_gradient(
        self, runner: PlanRunner, batches: Batches, versions: Mapping[str, Path]
    ) -> parity.Report:
        """On images with mixtures of all heads, in scores, gradients and embeddings."""
        compute = onnx_gradient(versions[AESTHETIC_GRADIENT.name] / DEFAULT_PROFILE.artifact)
        heads = _require(versions[AESTHETIC_HEADS.name] / DEFAULT_PROFILE.artifact)
        inputs, reference = onnx_reference(compute, parity.onnx_scorer(heads, published=True))
        count = len(inputs[0])
        return gradient_parity(
            lambda given: runner.run(*given),
            reference,
            inputs,
            [[0], [1], range(count), [i % count for i in range(batches.max)]],
            artifact=TENSORRT.artifact,
            against=AGAINST,
        )


def missing_onnx(repository: Path) -> list[str]:
    """What plans are made of and compared with, and a repository lacks, as paths within it.

    Of the models that every repository has; an add-on is only there when its files are.
    """
    wanted = [
        f"{plan.model.name}/1/{profile.artifact}"
        for plan in contract.PLANS
        if plan.model in contract.MODELS
        for profile in dict.fromkeys((DEFAULT_PROFILE, plan.source))
    ]
    return [name for name in wanted if not (repository / name).is_file()]


def timing_cache_name(version: str, device: Device) -> str:
    """Timings are of one TensorRT version on one GPU."""
    gpu = device.name.replace(" ", "-").replace("/", "-")
    return f"tensorrt-{version}-{gpu}-{device.compute_capability}.timing"


def _onnx_of(version: Path, source: Profile) -> tuple[Path, provenance.Provenance]:
    """The ONNX file that a plan is built from, and its provenance. Raises InputError."""
    path = _require(version / source.artifact)
    known = provenance.read_provenance(version, source)
    if known is None:
        raise InputError(
            f"{path.name} of {version.parent.name} has no provenance: export it with --precision "
            f"{source.precision}"
        )
    return path, known


def _sizes_and_hashes(onnx: Path) -> provenance.Provenance:
    """Of the ONNX file and of the weights beside it, where they lie outside."""
    data = onnx.with_name(data_name(onnx.name))
    beside = data.is_file()
    return {
        "onnx_sha256": sha256_of(onnx),
        "onnx_data_sha256": sha256_of(data) if beside else None,
        "onnx_bytes": onnx.stat().st_size + (data.stat().st_size if beside else 0),
    }


def _require(path: Path) -> Path:
    if not path.is_file():
        raise InputError(
            f"a plan is made from {path.name} of {path.parent.parent.name}, which is not there"
        )
    return path
