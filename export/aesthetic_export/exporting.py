"""One call of `aesthetic export`, from what was asked to the reports on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aesthetic_client import contract, plans
from aesthetic_client.contract import (
    AESTHETIC_HEADS,
    CLIP_IMAGE,
    GRADIENT,
    TENSORRT,
    AddOn,
)
from aesthetic_client.errors import InputError
from aesthetic_export import add_ons, console, openvino_export, samples, sources, tower_export
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
    """What the command line asks for. `plan` adds the plans; the tower's is for `opt_batch`.

    `kept` add-ons are there already, and made again only where the export would remove them.
    """

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
    kept: tuple[AddOn, ...] = ()

    def __post_init__(self) -> None:
        """Raises InputError for options that do not go together."""
        if self.opt_batch is not None and not self.plan:
            raise InputError("--opt-batch belongs to --target tensorrt")
        if self.added_heads and (self.plan or AESTHETIC_HEADS.name not in self.models):
            raise InputError(
                "--add-head exports aesthetic_heads as ONNX: give it in a call that does"
            )

    def missing(self) -> Job:
        """The job without what the repository has already; see `is_empty`.

        Plans are there when they fit this machine. An optional one that was refused is not, and is
        tried again. One is made with all others.
        """
        kept = tuple(a for a in self.add_ons if add_ons.is_there(self.target, a))
        without = tuple(a for a in self.add_ons if a not in kept)
        if self.plan:
            plan = not self._has_plans() or GRADIENT in without
            opt_batch = self.opt_batch if plan else None
            none: frozenset[str] = frozenset()
            return replace(
                self, models=none, plan=plan, opt_batch=opt_batch, add_ons=without, kept=kept
            )
        models, precisions = set(self.models), set(self.precisions)
        if CLIP_IMAGE.name in models:
            precisions -= self._precisions_there()
            if not precisions:
                models.remove(CLIP_IMAGE.name)
        if AESTHETIC_HEADS.name in models and self._has_heads():
            models.remove(AESTHETIC_HEADS.name)
        return replace(
            self,
            models=frozenset(models),
            precisions=frozenset(precisions),
            add_ons=without,
            kept=kept,
            added_heads=self.added_heads if AESTHETIC_HEADS.name in models else (),
        )

    def is_empty(self) -> bool:
        return not (self.models or self.plan or self.add_ons)

    def found(self) -> str:
        """Which weights the repository has: perhaps others than are asked for."""
        return " and ".join(
            f"{name} of {add_ons.described(read_provenance(self.target / name / '1') or {})}"
            for name in (CLIP_IMAGE.name, AESTHETIC_HEADS.name)
        )

    def run(self) -> bool:
        """Whether it was exported; where it was not, the reason is on the terminal.

        Raises InputError for what the user must mend.
        """
        spec = parse_weights(self.weights, sha256=self.sha256)
        added = [read_head(path) for path in self.added_heads]
        work = self._with_what_a_plan_needs() if self.plan else self
        if not work.precisions.isdisjoint(contract.CPU_PROFILES.keys() - {"fp32"}):
            openvino_export.check_installed()
        images = samples.images_of_folder(self.images) if self.images else None
        with contextlib.ExitStack() as stack:
            maker = stack.enter_context(self._plan_maker(images)) if self.plan else None
            with console.downloads() as progress:
                store = FileStore(self.cache, self.weights_folders, progress)
                tower = heads = text_tower = None
                export_tower = CLIP_IMAGE.name in work.models
                export_heads = AESTHETIC_HEADS.name in work.models
                gradient = work._may_make(GRADIENT)
                if export_tower or gradient:
                    tower = sources.load_tower(spec, store, console.warn)
                if work.models or gradient:
                    heads = (*work._heads(store, auto=spec.kind == "auto"), *added)
                    check_heads(heads)
                    self._warn_of_other_towers(tower if export_tower else None)
                work = work._with_outdated(
                    tower if export_tower else None, heads if export_heads else None
                )
                if add_ons.WITH_TEXT_TOWER.intersection(work.add_ons):
                    text_tower = sources.load_text_tower(spec, store, console.warn)
            made_of = tower if GRADIENT in work.add_ons else text_tower
            add_ons.check_weights(
                self.target,
                work.add_ons,
                tower=None if export_tower else made_of,
                heads=None if export_heads else heads,
            )
            return _build(
                self.target,
                tower=tower if export_tower else None,
                heads=heads,
                export_heads=export_heads,
                precisions=work.precisions,
                images=images,
                make_plan=maker,
                add_ons=(*work.add_ons, *self._with_plans()),
                makers=add_ons.makers(
                    work.add_ons, tower=tower, heads=heads, text_tower=text_tower
                ),
            )

    def _may_make(self, add_on: AddOn) -> bool:
        return add_on in self.add_ons or (bool(self.models) and add_on in self.kept)

    def _with_outdated(self, tower: Tower | None, heads: tuple[HeadWeights, ...] | None) -> Job:
        """What is kept is made again beside the new `tower` and `heads`, if it is of others."""
        outdated = add_ons.outdated(self.target, tower, heads, ())
        again = tuple(add_on for add_on in self.kept if add_on in outdated)
        return replace(self, add_ons=(*self.add_ons, *again))

    def _has_plans(self) -> bool:
        try:
            plans.check_repository(self.target, plans.this_machine())
        except plans.PlanError:
            return False
        there = {*contract.MODELS, *(model for a in self._with_plans() for model in a.models)}
        every = {plan for plan in contract.PLANS if plan.model in there}
        return every <= set(plans.served_plans(self.target)) and not missing_onnx(self.target)

    def _with_plans(self) -> tuple[AddOn, ...]:
        """Add-ons of which a plan is made from what is there."""
        return add_ons.with_plans(self.target) if self.plan else ()

    def _precisions_there(self) -> set[str]:
        """Of the tower's files. None is there without the fp32 one, whatever else was asked for."""
        version = self.target / CLIP_IMAGE.name / "1"
        there: set[str] = {
            profile.precision
            for profile in tower_export.PROFILES
            if read_provenance(version, profile)
        }
        return there if contract.DEFAULT_PROFILE.precision in there else set()

    def _has_heads(self) -> bool:
        version = self.target / AESTHETIC_HEADS.name / "1"
        data = version / contract.HEADS_DATA
        return bool(read_provenance(version) and data.is_file()) and self._has_added_heads()

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
        """Only what is missing is exported before a plan is made of it, an add-on too."""
        missing = missing_onnx(self.target)
        models = {name.partition("/")[0] for name in missing}
        if missing:
            console.say(f"{self.target} lacks {', '.join(missing)}: exporting first")
        there = self._with_plans()
        return replace(
            self,
            models=frozenset(models),
            precisions=frozenset({"fp16"}),
            add_ons=tuple(add_on for add_on in self.add_ons if add_on not in there),
            kept=(*self.kept, *(add_on for add_on in self.add_ons if add_on in there)),
        )

    @contextlib.contextmanager
    def _plan_maker(self, images: Pixels | None) -> Iterator[PlanMaker]:
        """Raises InputError where there is no TensorRT or no GPU: before anything is exported."""
        trt = load_tensorrt()
        with Gpu() as gpu:
            folder = self.cache / TENSORRT.name
            few = None if images is None else images[: samples.PARITY_IMAGES]
            yield PlanMaker(trt, gpu, folder, console.phases, self.opt_batch, few)

    def _heads(self, store: FileStore, *, auto: bool) -> tuple[HeadWeights, ...]:
        if AESTHETIC_HEADS.name in self.models or self._may_make(GRADIENT):
            choice = self.head_weights or ("auto" if auto else "published")
            return sources.load_heads(choice, store, console.warn)
        # only to turn the tower's differences into scores
        note = "the published heads cannot be reached: comparing scores of random ones"
        return sources.load_heads(self.head_weights or "auto", store, lambda _: console.say(note))


def _build(
    target: Path,
    *,
    heads: tuple[HeadWeights, ...] | None,
    export_heads: bool,
    **options: Any,
) -> bool:
    try:
        reports = build_repository(
            target,
            heads=heads if export_heads else None,
            comparison_heads=heads,
            say=console.say,
            **options,
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
