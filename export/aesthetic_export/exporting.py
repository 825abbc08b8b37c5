"""One call of `aesthetic export`, from what was asked to the reports on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aesthetic_client import contract, plans
from aesthetic_client.contract import AESTHETIC_HEADS, CLIP_IMAGE, ONNX_CUDA, TENSORRT, AddOn
from aesthetic_client.errors import InputError
from aesthetic_export import console, samples, sources
from aesthetic_export.added_heads import PUBLISHED, check_heads
from aesthetic_export.cuda import CudaError, Gpu
from aesthetic_export.files import FileStore, sha256_of
from aesthetic_export.head_files import read_head, tower_of
from aesthetic_export.heads import HeadWeights
from aesthetic_export.onnx_export import ExportError
from aesthetic_export.parity import ParityError, Pixels
from aesthetic_export.provenance import read_provenance, same_tower, tower_provenance
from aesthetic_export.repository import build_repository
from aesthetic_export.tensorrt_builder import PlanBuildError, load_tensorrt
from aesthetic_export.tensorrt_export import PlanMaker, missing_onnx
from aesthetic_export.towers import Tower
from aesthetic_export.weights import parse_weights


@dataclass(frozen=True)
class Job:
    """What the command line asks for. `plan` adds the plans; the tower's is for `opt_batch`."""

    target: Path
    weights: str
    sha256: str | None
    head_weights: str | None
    models: frozenset[str]
    precisions: frozenset[str]
    plan: bool
    opt_batch: int | None
    add_ons: tuple[AddOn, ...]
    images: Path | None
    cache: Path
    weights_folders: tuple[Path, ...]
    added_heads: tuple[Path, ...] = ()

    def is_done(self) -> bool:
        """The repository has everything asked for, plans that fit this machine if they are.

        An optional plan that was refused is not there, and is tried again.
        """
        added = [model for add_on in self.add_ons for model in add_on.models]
        if not all((self.target / model.name).is_dir() for model in added):
            return False
        if self.plan:
            try:
                plans.check_repository(self.target, plans.this_machine())
            except plans.PlanError:
                return False
            every = plans.served_plans(self.target) == list(contract.PLANS)
            return every and not missing_onnx(self.target)
        wanted = [
            (name, profile)
            for name in self.models
            for profile in contract.PROFILES
            if profile is contract.DEFAULT_PROFILE
            or (name == CLIP_IMAGE.name and profile is ONNX_CUDA and "fp16" in self.precisions)
        ]
        data = self.target / AESTHETIC_HEADS.name / "1" / contract.HEADS_DATA
        if AESTHETIC_HEADS.name in self.models and not data.is_file():
            return False
        if not all(read_provenance(self.target / name / "1", profile) for name, profile in wanted):
            return False
        return AESTHETIC_HEADS.name not in self.models or self._has_added_heads()

    def run(self) -> bool:
        """Whether it was exported; where it was not, the reason is on the terminal.

        Raises InputError for what the user must mend.
        """
        spec = parse_weights(self.weights, sha256=self.sha256)
        if self.opt_batch is not None and not self.plan:
            raise InputError("--opt-batch belongs to --target tensorrt")
        if self.added_heads and (self.plan or AESTHETIC_HEADS.name not in self.models):
            raise InputError(
                "--add-head exports aesthetic_heads as ONNX: give it in a call that does"
            )
        added = [read_head(path) for path in self.added_heads]
        work = self._with_what_a_plan_needs() if self.plan else self
        images = samples.images_of_folder(self.images) if self.images else None
        with contextlib.ExitStack() as stack:
            maker = stack.enter_context(self._plan_maker(images)) if self.plan else None
            with console.downloads() as progress:
                store = FileStore(self.cache, self.weights_folders, progress)
                tower = heads = None
                if CLIP_IMAGE.name in work.models:
                    tower = sources.load_tower(spec, store, console.warn)
                if work.models:
                    heads = (*work._heads(store, auto=spec.kind == "auto"), *added)
                    check_heads(heads)
                    self._warn_of_other_towers(tower)
            return _build(
                self.target,
                tower=tower,
                heads=heads,
                export_heads=AESTHETIC_HEADS.name in work.models,
                precisions=work.precisions,
                images=images,
                maker=maker,
                add_ons=self.add_ons,
            )

    def _has_added_heads(self) -> bool:
        """Every head that is to be added is there, by its hash; further ones may be."""
        known = read_provenance(self.target / AESTHETIC_HEADS.name / "1") or {}
        rows: Any = known.get("heads", ())
        there = {row.get("sha256") for row in rows[PUBLISHED:]}
        return all(path.is_file() and sha256_of(path) in there for path in self.added_heads)

    def _warn_of_other_towers(self, tower: Tower | None) -> None:
        """A head means something on embeddings of the tower that it was fitted on, only."""
        if tower is not None:
            served: Mapping[str, object] | None = tower_provenance(tower)
        else:
            served = read_provenance(self.target / CLIP_IMAGE.name / "1")
        for path in self.added_heads:
            fitted_on = tower_of(path)
            if served is not None and fitted_on and not same_tower(fitted_on, served):
                console.warn(
                    f"{path} was fitted on embeddings of another tower ({fitted_on['weights']}) "
                    "than the one served beside it: ITS SCORES WILL BE MEANINGLESS."
                )

    def _with_what_a_plan_needs(self) -> Job:
        """Only what is missing is exported before a plan is made of it."""
        missing = missing_onnx(self.target)
        models = {name.partition("/")[0] for name in missing}
        if missing:
            console.say(f"{self.target} lacks {', '.join(missing)}: exporting first")
        return replace(self, models=frozenset(models), precisions=frozenset({"fp16"}))

    @contextlib.contextmanager
    def _plan_maker(self, images: Pixels | None) -> Iterator[PlanMaker]:
        """Raises InputError where there is no TensorRT or no GPU: before anything is exported."""
        trt = load_tensorrt()
        with Gpu() as gpu:
            folder = self.cache / TENSORRT.name
            yield PlanMaker(trt, gpu, folder, console.phases, self.opt_batch, images)

    def _heads(self, store: FileStore, *, auto: bool) -> tuple[HeadWeights, ...]:
        if AESTHETIC_HEADS.name in self.models:
            choice = self.head_weights or ("auto" if auto else "published")
            return sources.load_heads(choice, store, console.warn)
        # only to turn the tower's differences into scores
        note = "the published heads cannot be reached: comparing scores of random ones"
        return sources.load_heads(self.head_weights or "auto", store, lambda _: console.say(note))


def _build(
    target: Path,
    *,
    tower: Tower | None,
    heads: tuple[HeadWeights, ...] | None,
    export_heads: bool,
    precisions: frozenset[str],
    images: Pixels | None,
    maker: PlanMaker | None,
    add_ons: tuple[AddOn, ...],
) -> bool:
    try:
        reports = build_repository(
            target,
            tower=tower,
            precisions=precisions,
            heads=heads if export_heads else None,
            comparison_heads=heads,
            make_plan=maker,
            images=images,
            add_ons=add_ons,
            say=console.say,
        )
    except ParityError as error:
        console.print_report(error.report)
        console.say(f"{error.report.name} was not exported; {target} is as it was.")
        return False
    except (ExportError, PlanBuildError, CudaError) as error:
        console.say(f"error: {error}\n{target} is as it was.")
        return False
    for report in reports:
        console.print_report(report)
    return True
