"""Recipes as the JSON objects that `aesthetic_personalize` takes."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from aesthetic_client.errors import InputError
from aesthetic_guidance.recipes import Recipe

MAX_BYTES = 1000  # of a recipe

_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "Optimizer": (str,),
}
_FIELDS = {field.name: _KINDS[str(field.type)] for field in fields(Recipe)}


def recipe_as_json(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe))


def recipe_from_json(data: bytes, *, position: str = "recipe") -> Recipe:
    """The recipe that a JSON object names; what it leaves out has its default.

    Raises InputError for anything else, a field that does not exist or has another type.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{len(data)} bytes, more than {MAX_BYTES}", position=position)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError("not a JSON object, such as {}", position=position) from None
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise InputError(f"expected a JSON object, such as {{}}; got {kind}", position=position)
    for name, value in found.items():
        _check(name, value, position)
    try:
        return Recipe(**found)
    except InputError as error:
        raise InputError(error.message, position=position) from None


def _check(name: str, value: Any, position: str) -> None:
    if name not in _FIELDS:
        known = ", ".join(_FIELDS)
        raise InputError(f"{name!r} is no field of a recipe; use {known}", position=position)
    kinds = _FIELDS[name]
    # a bool is an int in Python
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"{name}={value!r} is not {names}", position=position)
