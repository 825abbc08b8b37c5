"""Whose weights a repository serves, by its own account."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from aesthetic_client import contract

from .engine import model_config
from .errors import BenchError

TOWER = contract.CLIP_IMAGE.name


def read_provenance(
    repository: Path, profile: contract.Profile = contract.DEFAULT_PROFILE
) -> dict[str, str]:
    """What `aesthetic export` wrote into the tower's config of that profile.

    Raises BenchError where there is no repository.
    """
    if not (repository / TOWER / profile.config_file).is_file():
        raise BenchError(
            "there is no servable model repository at the given place; make it with: "
            "aesthetic export, or name another one with --repository"
        )
    parameters = model_config(repository / TOWER, profile.config_file).get("parameters", {})
    prefix = contract.PROVENANCE_PREFIX
    return {
        key.removeprefix(prefix): value["string_value"]
        for key, value in parameters.items()
        if key.startswith(prefix)
    }


def weights_of(provenance: Mapping[str, str]) -> dict[str, str]:
    """The part of a provenance that belongs into a results file."""
    kept = ("weights", "source", "weights_sha256", "precision", "preprocessing", "artifact_sha256")
    found = {key: provenance[key] for key in kept if key in provenance}
    found.setdefault("weights", "unknown: the repository does not say")
    hashes = found.get("artifact_sha256")
    return {**found, "artifact_sha256": json.loads(hashes)} if hashes else found
