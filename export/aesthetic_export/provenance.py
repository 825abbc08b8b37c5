"""Where an artifact's numbers come from: beside it as JSON, and in the served model's config."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from aesthetic_client import contract
from aesthetic_client.errors import InputError
from aesthetic_client.pixels import PREPROCESSING_ID
from aesthetic_export.added_heads import served_head
from aesthetic_export.heads import HeadWeights
from aesthetic_export.onnx_export import OPSET
from aesthetic_export.towers import ACTIVATION, Tower

_HEADING = "# Where these numbers come from; written by `aesthetic export`."
_DISTRIBUTIONS = {
    "aesthetic_triton": "aesthetic-triton",
    "torch": "torch",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "open_clip": "open_clip_torch",
}
# What says which weights an artifact computes with; a plan has it from its ONNX file.
WEIGHTS_FIELDS = (
    *("model", "weights", "weights_sha256", "source", "heads", "seed"),
    *("activation", "preprocessing", "precision", "opset"),
)

Provenance = dict[str, object]


def file_of(profile: contract.Profile) -> str:
    """The name of the JSON beside a profile's artifact: `provenance.json` for the default's."""
    return profile.provenance_file


def tower_provenance(
    tower: Tower, profile: contract.Profile = contract.DEFAULT_PROFILE
) -> Provenance:
    """What is known about `clip_image` before it is exported."""
    return {
        "model": contract.CLIP_IMAGE.name,
        "weights": tower.weights,
        "weights_sha256": tower.sha256,
        "source": tower.source,
        **tower.extra,
        "activation": ACTIVATION,
        "preprocessing": PREPROCESSING_ID,
        **_common(profile.precision),
    }


def text_tower_provenance(tower: Tower, model: contract.Model) -> Provenance:
    """What is known about a `model` of the text tower's weights before it is exported."""
    return {
        "model": model.name,
        "weights": tower.weights,
        "weights_sha256": tower.sha256,
        "source": tower.source,
        **tower.extra,
        "activation": ACTIVATION,
        **_common(contract.DEFAULT_PROFILE.precision),
    }


def same_tower(one: Mapping[str, object] | None, other: Mapping[str, object]) -> bool:
    """Whether two provenances are of one tower's weights. Unknown ones are of no tower."""
    if one is None:
        return False
    fields = ["weights", "weights_sha256"]
    if other.get("weights_sha256") is None:  # seeded: the source names the seed
        fields.append("source")
    return all(one.get(field) == other.get(field) for field in fields)


def heads_provenance(heads: Sequence[HeadWeights]) -> Provenance:
    """What is known about `aesthetic_heads` before it is exported.

    One seeded head makes the whole model seeded, as one that was fitted on a seeded tower does.
    """
    seeded = [head for head in heads if head.seeded]
    meaningless = any(contract.SEEDED_WEIGHTS in head.weights for head in heads)
    known: Provenance = {
        "model": contract.AESTHETIC_HEADS.name,
        "weights": contract.SEEDED_WEIGHTS if meaningless else "published",
        "heads": [_head_row(head) for head in heads],
        **_common("fp32"),
    }
    return {**known, "seed": seeded[0].seed} if seeded else known


def config_with_provenance(text: str, provenance: Mapping[str, object]) -> str:
    """A config.pbtxt's own text, comments and all, with the provenance as `parameters` after it.

    The result is parsed again. Raises InputError when the text is no model configuration.
    """
    from google.protobuf import text_format
    from google.protobuf.text_encoding import CEscape
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    values = metadata_of(provenance)
    lines = [
        f'parameters {{ key: "{key}" value {{ string_value: "{CEscape(value, as_utf8=True)}" }} }}'
        for key, value in values.items()
    ]
    result = "\n".join([text.rstrip("\n"), _HEADING, *lines, ""])
    try:
        config = text_format.Parse(result, ModelConfig())
    except text_format.ParseError as error:
        raise InputError(f"not a Triton model configuration: {error}") from None
    written = {key: config.parameters[key].string_value for key in values}
    if written != values:
        raise InputError("the model configuration has provenance of its own")
    return result


def read_provenance(
    folder: Path, profile: contract.Profile = contract.DEFAULT_PROFILE
) -> Provenance | None:
    """The provenance beside a profile's artifact, None when there is none or it is unreadable."""
    try:
        found = json.loads((folder / file_of(profile)).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_provenance(
    folder: Path,
    provenance: Mapping[str, object],
    profile: contract.Profile = contract.DEFAULT_PROFILE,
) -> None:
    (folder / file_of(profile)).write_text(json.dumps(provenance, indent=2) + "\n", "utf-8")


def metadata_of(provenance: Mapping[str, object]) -> dict[str, str]:
    """The same as strings by full key: a string stands as it is, the rest is compact JSON.

    What is None is left out.
    """
    return {
        contract.PROVENANCE_PREFIX + field: _as_text(value)
        for field, value in provenance.items()
        if value is not None
    }


def made_now() -> Provenance:
    """The time and the versions of what has a part in it, as far as it is installed."""
    now = datetime.datetime.now(datetime.timezone.utc)
    versions = {}
    for name, distribution in _DISTRIBUTIONS.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(distribution)
    return {"created": now.isoformat(timespec="seconds"), "versions": versions}


def _common(precision: str) -> Provenance:
    return {"precision": precision, "opset": OPSET, **made_now()}


def _head_row(head: HeadWeights) -> dict[str, object]:
    source = head.source
    row: dict[str, object] = {
        "name": source.name,
        "output": served_head(source.name).output,
        "weights": head.weights,
        "kind": source.kind,
    }
    if head.seeded:  # the published file has no part in it
        return {**row, "sha256": None, "source": f"seeded:{head.seed}", "licence": None}
    return {
        **row,
        "sha256": source.file.sha256,
        "source": source.file.url or source.file.name,
        "licence": source.licence or None,
    }


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
