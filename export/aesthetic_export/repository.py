"""A complete servable model repository: sources, artifacts, their parity and provenance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from aesthetic_client import contract
from aesthetic_client.contract import DEFAULT_PROFILE, TENSORRT, AddOn, Plan, Profile
from aesthetic_export import add_ons as added
from aesthetic_export import added_heads, artifacts, folders, parity, provenance, samples
from aesthetic_export.certification import Exported, Say, certified
from aesthetic_export.heads import HeadWeights, seeded_heads
from aesthetic_export.heads_data import heads_data_scorer, write_heads_data
from aesthetic_export.onnx_export import onnx_from_module
from aesthetic_export.tower_export import export_tower, profiles_to_make
from aesthetic_export.towers import Tower

# Makes a plan in its model's version folder; every model's is named, whether it is filled yet or
# not. None: an optional plan was refused, and nothing is left of it.
MakePlan = Callable[[Plan, Mapping[str, Path], Say], Exported | None]
# Fills the version folder of an add-on's model. None: there was nothing to compare.
MakeModel = Callable[[Path, Say], Exported | None]

HEADS_PARITY_VECTORS = 512


def build_repository(
    target: Path,
    *,
    tower: Tower | None = None,
    precisions: Collection[str] = (DEFAULT_PROFILE.precision,),
    heads: Sequence[HeadWeights] | None = None,
    comparison_heads: Sequence[HeadWeights] | None = None,
    make_plan: MakePlan | None = None,
    images: parity.Pixels | None = None,
    source: Path | None = None,
    add_ons: Collection[AddOn] = (),
    makers: Mapping[str, MakeModel] | None = None,
    say: Say = lambda _: None,
) -> list[parity.Report]:
    """Build or renew the servable repository `target`, all of it or nothing.

    A `tower` becomes `clip_image` in each of `precisions`, `heads` become `aesthetic_heads`, and
    `make_plan` adds the TensorRT plans; every artifact that is not made anew is kept, unless it is
    of other weights than the new ones. fp32 is always there: it is made where there is none of the
    same weights. `comparison_heads` turn the tower's differences into scores where
    `heads` are not exported (seeded ones by default). `heads` after the contract's are served
    beside them, until heads are exported without them. `images` (n, 224, 224, 3) uint8 are what the
    parity check looks at, `source` the hand-written repository. `add_ons` are
    added to the models; `makers` fill those that have artifacts (see add_ons.py). One that was
    added before, and is of other weights than the new ones, is removed. Returns the reports.

    Raises ParityError when an artifact does not compute what its module does, ActivationError for a
    tower without QuickGELU, InputError for a target that cannot be used. Nothing changes then.
    """
    source = source or folders.source_repository()
    folders.check_target(target, source)
    reports: list[parity.Report] = []
    models = folders.source_models(source, add_ons)
    plans = {plan.model.name: plan for plan in contract.PLANS}
    further = _further_heads(target, heads, say)
    with contextlib.ExitStack() as stack:
        stack.enter_context(folders.exclusive(target))
        gone = _outdated(target, tower, heads, makers or (), say)
        names = [name for name in _order(models) if name not in gone]
        stages = stack.enter_context(folders.staged(target, names, gone))
        versions = {name: stage / "1" for name, stage in stages.items()}
        for name, stage in stages.items():
            version, existing = folders.copy_model(models[name], stage), target / name / "1"
            added_heads.add_to_configs(stage, further)
            made: dict[Profile, Exported] = {}
            if name == contract.CLIP_IMAGE.name and tower is not None:
                scorers = (heads or comparison_heads or seeded_heads(0))[: added_heads.PUBLISHED]
                profiles = profiles_to_make(existing, tower, precisions)
                made = export_tower(version, tower, scorers, images, say, profiles)
                _keep(existing, version, made, say, of=tower)
            elif makers and name in makers:
                if (filled := makers[name](version, say)) is not None:
                    made = {DEFAULT_PROFILE: filled}
            elif name == contract.AESTHETIC_HEADS.name and heads is not None:
                made = {DEFAULT_PROFILE: export_heads(version, heads, say)}
            else:
                _keep(existing, version, made, say)
            _write(version, made)
            if name in plans and make_plan is not None:
                artifacts.drop_artifact(version, TENSORRT)
                if (planned := make_plan(plans[name], versions, say)) is not None:
                    made[TENSORRT] = planned
                    _write(version, made)
            if name in plans and plans[name].optional:
                if made and make_plan is None and artifacts.has_artifact(existing, TENSORRT):
                    before = DEFAULT_PROFILE.artifact
                    say(f"{TENSORRT.artifact} of {name} is of the {before} before and was left out")
                artifacts.leave_out_plan_config(stage)
            artifacts.annotate(stage)
            reports += [report for report, _ in made.values()]
    return reports


def export_heads(folder: Path, heads: Sequence[HeadWeights], say: Say) -> Exported:
    """Write `aesthetic_heads` into `folder`, as ONNX and as data, and compare both.

    Raises ParityError.
    """
    from aesthetic_export.modules import AestheticHeads

    known = provenance.heads_provenance(heads)
    say(f"exporting aesthetic_heads ({known['weights']})")
    module = AestheticHeads(heads)
    names = [head.source.name for head in heads]
    model = added_heads.heads_model(names)
    files = onnx_from_module(module, model, folder, metadata=provenance.metadata_of(known))
    data = write_heads_data(folder, heads, known)
    vectors = samples.unit_vectors(HEADS_PARITY_VECTORS)
    reference = parity.run_torch(module, vectors)
    batches = [[0], [1], range(len(vectors))]
    report, data_report = (
        parity.heads_parity(
            scorer, reference, vectors, batches=batches, artifact=artifact, heads=names
        )
        for scorer, artifact in (
            (parity.onnx_scorer(files[0]), DEFAULT_PROFILE.artifact),
            (heads_data_scorer(data), data.name),
        )
    )
    if not data_report:
        raise parity.ParityError(data_report)
    known["data_parity"] = data_report.as_dict()
    return report, certified(known, [*files, data], report)


def _order(models: Collection[str]) -> list[str]:
    """Add-ons last: what is compared by way of the heads finds them there."""
    always = {model.name for model in contract.MODELS}
    return sorted(models, key=lambda name: (name not in always, name))


def _outdated(
    target: Path,
    tower: Tower | None,
    heads: Sequence[HeadWeights] | None,
    made: Collection[str],
    say: Say,
) -> list[str]:
    """Names of the models that go, because their add-on is of other weights than the new ones."""
    found = added.outdated(target, tower, heads, made)
    for add_on in found:
        say(
            f"{', '.join(model.name for model in add_on.models)}: of other weights than those "
            f"exported now, and removed; add again with --with {add_on.name}"
        )
    return [model.name for add_on in found for model in add_on.models if model.name not in made]


def _further_heads(target: Path, heads: Sequence[HeadWeights] | None, say: Say) -> list[str]:
    """Names of the heads beyond the contract's: of `heads`, or of those that stay as they are."""
    existing = target / contract.AESTHETIC_HEADS.name / "1"
    kept = added_heads.names_of(provenance.read_provenance(existing))[added_heads.PUBLISHED :]
    if heads is None:
        return kept
    names = [head.source.name for head in heads][added_heads.PUBLISHED :]
    if gone := [name for name in kept if name not in names]:
        say(f"{', '.join(gone)}: added before, not now, and left out; add again with --add-head")
    return names


def _keep(
    existing: Path,
    version: Path,
    made: Collection[Profile],
    say: Say,
    *,
    of: Tower | None = None,
) -> None:
    """Carry over what was not made, and is `of` the tower that was, if one was."""
    for profile in contract.PROFILES:
        if profile in made or not artifacts.has_artifact(existing, profile):
            continue
        known = provenance.read_provenance(existing, profile)
        if of is not None and not provenance.same_tower(known, provenance.tower_provenance(of)):
            say(f"{profile.artifact} is of other weights and was left out; export it anew")
            continue
        artifacts.keep_artifact(existing, version, profile)


def _write(version: Path, made: dict[Profile, Exported]) -> None:
    for profile, (_, known) in made.items():
        provenance.write_provenance(version, known, profile)
