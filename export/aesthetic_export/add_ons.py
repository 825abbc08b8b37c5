"""What `aesthetic export --with NAME` adds: how its artifacts are made, and when they are outdated.

An add-on computes with the same weights as the models that it is served beside. One that was added
earlier does not survive an export of other weights, for it would answer as if nothing had changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aesthetic_client import contract
from aesthetic_client.contract import (
    AESTHETIC_GRADIENT,
    AESTHETIC_HEADS,
    AESTHETIC_PERSONALIZE,
    CLIP_IMAGE,
    CLIP_TEXT_TOWER,
    GRADIENT,
    PERSONALIZE,
    TEXT,
    TOKENIZE,
    AddOn,
)
from aesthetic_client.errors import InputError
from aesthetic_export.added_heads import PUBLISHED
from aesthetic_export.heads import HeadWeights
from aesthetic_export.provenance import (
    heads_provenance,
    read_provenance,
    same_tower,
    tower_provenance,
)
from aesthetic_export.towers import Tower

if TYPE_CHECKING:
    from aesthetic_export.certification import Exported, Say
    from aesthetic_export.repository import MakeModel

WITH_TEXT_TOWER = frozenset({TEXT, PERSONALIZE})
# Their artifacts hold a tower's weights, and say so in their provenance.
_OF_A_TOWER = (CLIP_TEXT_TOWER.name, AESTHETIC_PERSONALIZE.name, AESTHETIC_GRADIENT.name)
_OF_HEADS = (AESTHETIC_GRADIENT.name,)
_WITH_ARTIFACTS = (TOKENIZE.name, *_OF_A_TOWER)
_HEAD_FIELDS = ("name", "weights", "sha256", "source")


def makers(
    add_ons: Collection[AddOn],
    *,
    tower: Tower | None = None,
    heads: Sequence[HeadWeights] | None = None,
    text_tower: Tower | None = None,
) -> dict[str, MakeModel]:
    """What fills the version folder of each model of `add_ons` that has artifacts, by its name.

    `text` and `personalize` need the text tower, `gradient` the image tower and the heads.
    """
    found: dict[str, MakeModel] = {}
    if TEXT in add_ons:
        assert text_tower is not None
        found[TOKENIZE.name] = _make_vocabulary
        found[CLIP_TEXT_TOWER.name] = _text_maker(text_tower)
    if PERSONALIZE in add_ons:
        assert text_tower is not None
        found[AESTHETIC_PERSONALIZE.name] = _personalize_maker(text_tower)
    if GRADIENT in add_ons:
        assert tower is not None and heads is not None
        found[AESTHETIC_GRADIENT.name] = _gradient_maker(tower, heads[:PUBLISHED])
    return found


def is_there(target: Path, add_on: AddOn) -> bool:
    """Whether the repository has the add-on's models, with their artifacts where they have any.

    One of other weights than are served is not there: an interrupted export can leave it so.
    """
    tower = read_provenance(target / CLIP_IMAGE.name / "1")
    heads = read_provenance(target / AESTHETIC_HEADS.name / "1")
    for model in add_on.models:
        folder = target / model.name
        if not (folder / "config.pbtxt").is_file() or _differs(folder, tower, heads):
            return False
        if model.name in _WITH_ARTIFACTS:
            hashes: Any = (read_provenance(folder / "1") or {}).get("artifact_sha256")
            if not hashes or not all((folder / "1" / name).is_file() for name in hashes):
                return False
    return True


def with_plans(target: Path) -> tuple[AddOn, ...]:
    """The add-ons in the repository whose models can be served by a TensorRT plan."""
    planned = [plan.model for plan in contract.PLANS]
    return tuple(
        add_on
        for add_on in contract.ADD_ONS
        if any(model in planned for model in add_on.models) and is_there(target, add_on)
    )


def outdated(
    target: Path, tower: Tower | None, heads: Sequence[HeadWeights] | None, made: Iterable[str]
) -> list[AddOn]:
    """Add-ons in `target` of other weights than the `tower` and `heads` that are exported now.

    Models named in `made` are exported now themselves.
    """
    made = set(made)
    of_tower = None if tower is None else tower_provenance(tower)
    of_heads = None if heads is None else heads_provenance(heads)
    return [
        add_on
        for add_on in contract.ADD_ONS
        if any(
            _differs(target / model.name, of_tower, of_heads)
            for model in add_on.models
            if model.name not in made
        )
    ]


def check_weights(
    target: Path,
    add_ons: Collection[AddOn],
    *,
    tower: Tower | None,
    heads: Sequence[HeadWeights] | None,
) -> None:
    """Whether what `add_ons` are made of is what `target` serves; None where that is made anew too.

    Raises InputError where the two differ: embeddings and scores would not fit together.
    """
    served = read_provenance(target / CLIP_IMAGE.name / "1")
    if served is not None and tower is not None:
        known = tower_provenance(tower)
        if not same_tower(served, known):
            raise InputError(
                f"{_names(add_ons)} would be of {described(known)}, but {target} serves a "
                f"{CLIP_IMAGE.name} of {described(served)}: name its weights with --weights, or "
                f"export both (--model {CLIP_IMAGE.name}, without --if-missing)"
            )
    served = read_provenance(target / AESTHETIC_HEADS.name / "1")
    if served is None or heads is None or GRADIENT not in add_ons:
        return
    if _head_rows(served) != _head_rows(heads_provenance(heads)):
        raise InputError(
            f"{GRADIENT.name} would be of other heads than {target} serves: name the same with "
            f"--head-weights, or export both (--model {AESTHETIC_HEADS.name}, without "
            "--if-missing)"
        )


def described(known: Mapping[str, object]) -> str:
    """The weights that a provenance names, and where they are from."""
    source = known.get("source")
    return f"{known.get('weights')} ({source})" if source else f"{known.get('weights')}"


def _make_vocabulary(version: Path, say: Say) -> Exported | None:
    from aesthetic_export.text_export import export_vocabulary

    return export_vocabulary(version, say)


def _text_maker(tower: Tower) -> MakeModel:
    from aesthetic_export.text_export import export_text_tower

    return lambda version, say: export_text_tower(version, tower, say)


def _personalize_maker(tower: Tower) -> MakeModel:
    from aesthetic_export.text_export import export_text_weights

    return lambda version, say: export_text_weights(version, tower, say)


def _gradient_maker(tower: Tower, heads: Sequence[HeadWeights]) -> MakeModel:
    from aesthetic_export.gradient_export import export_gradient

    return lambda version, say: export_gradient(version, tower, heads, say)


def _differs(
    folder: Path, tower: Mapping[str, object] | None, heads: Mapping[str, object] | None
) -> bool:
    if not folder.is_dir():
        return False
    known = read_provenance(folder / "1")
    if tower is not None and folder.name in _OF_A_TOWER and not same_tower(known, tower):
        return True
    other_heads = heads is not None and _head_rows(known or {}) != _head_rows(heads)
    return folder.name in _OF_HEADS and other_heads


def _head_rows(known: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """What names the weights of the contract's heads; further ones are no part of an add-on."""
    rows = known.get("heads", ())[:PUBLISHED]
    return [tuple(row.get(field) for field in _HEAD_FIELDS) for row in rows]


def _names(add_ons: Iterable[AddOn]) -> str:
    return " and ".join(add_on.name for add_on in add_ons)
