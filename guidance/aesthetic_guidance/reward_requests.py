"""The JSON of a reward server: what a request asks, checked field by field.

POST /score takes an object:

    images      a list of image files (PNG, JPEG, WebP), each in base64; data: URLs will do
    prompts     optional; a text an image
    metadata    optional; anything
    head        optional; a head's name, or {name: weight}; else the default head
    like        optional; 768 numbers: the cosine with them. Without `head` it is the whole reward
    like_weight optional; 1 by default

and answers {"scores": [...], "errors": {"2": "why"}, "terms": {name: [...]}}, in the order of the
images; null where an image has no score. `prompts` and `metadata` are what trainers send; only
the former's number is looked at. What is wrong with the request itself is answered with a 4xx and
{"error": {"field": "images[3]", "message": "..."}}.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aesthetic_client.errors import ImageError, InputError
from aesthetic_guidance.reward_terms import Terms, parse_terms

MAX_IMAGES = 1024  # a request; a trainer's batch is smaller, and a longer list takes minutes
FIELDS = ("images", "prompts", "metadata", "head", "like", "like_weight")


class FieldError(InputError):
    """A request that cannot be used; `position` is the field, "" for the whole body."""


@dataclass(frozen=True)
class RewardRequest:
    """What to score, and how. An image that is no base64 is its error."""

    images: Sequence[bytes | ImageError]
    terms: Terms


def parse_request(body: bytes | bytearray) -> RewardRequest:
    """Raises FieldError, which names the field and the item."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else f"{error}"
        raise FieldError(f"the body is no JSON: {reason}", position="") from None
    if not isinstance(found, dict):
        raise FieldError("the body is no JSON object", position="")
    for name in found:
        if name not in FIELDS:
            known = ", ".join(FIELDS)
            raise FieldError(f"there is no such field; these are: {known}", position=name[:80])
    images = _texts(found, "images")
    if images is None:
        raise FieldError("is missing: a list of image files in base64", position="images")
    prompts = _texts(found, "prompts")
    if prompts is not None and len(prompts) != len(images):
        raise FieldError(
            f"has {len(prompts)} texts for {len(images)} images; one an image, or none at all",
            position="prompts",
        )
    return RewardRequest([_decoded(image) for image in images], _terms(found))


def _texts(found: dict[str, Any], field: str) -> list[str] | None:
    values = found.get(field)
    if values is None:
        return None
    if not isinstance(values, list):
        raise FieldError(f"expected a list, got {_kind(values)}", position=field)
    if len(values) > MAX_IMAGES:
        raise FieldError(f"has {len(values)} items, the limit is {MAX_IMAGES}", position=field)
    for at, value in enumerate(values):
        if not isinstance(value, str):
            raise FieldError(f"expected a string, got {_kind(value)}", position=f"{field}[{at}]")
    return values


def _decoded(text: str) -> bytes | ImageError:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return ImageError("unreadable", "is no base64")
    return data or ImageError("empty", "the image has no bytes")


def _terms(found: dict[str, Any]) -> Terms:
    head, like = found.get("head"), found.get("like")
    if head is not None and not isinstance(head, str | dict):
        raise FieldError(f"expected a name or an object, got {_kind(head)}", position="head")
    parsed = [Terms({}, {}) if head is None and like is not None else _parsed(head, "head")]
    if like is not None:
        if not isinstance(like, list):
            raise FieldError(f"expected 768 numbers, got {_kind(like)}", position="like")
        weight = found.get("like_weight", 1)
        _parsed({"": weight}, "like_weight")
        parsed.append(_parsed([(like, weight)], "like"))
    elif "like_weight" in found:
        raise FieldError("is the weight of `like`, which is missing", position="like_weight")
    try:
        return Terms(parsed[0].heads, parsed[-1].vectors)
    except InputError as error:
        raise FieldError(error.message.removeprefix("head: "), position="head") from None


def _parsed(head: Any, field: str) -> Terms:
    try:
        return parse_terms(head)
    except InputError as error:
        raise FieldError(error.message.removeprefix("head: "), position=field) from None


def _kind(value: object) -> str:
    """A JSON value's type, as JSON calls it."""
    names = {bool: "a boolean", dict: "an object", list: "a list", str: "a string"}
    return "null" if value is None else names.get(type(value), "a number")
