"""Can this container serve this repository with this profile? Asked before Triton is started.

Every refusal is one sentence with the command that mends it: Triton's own log needs a reader who
knows where to look.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aesthetic_client import contract, plans
from aesthetic_container.flags import TLS_FILES
from aesthetic_container.settings import PLAIN_PROFILE, Settings

EXPORT = "docker compose -f serve/deploy/compose.yaml run --rm export"
PROVENANCE_FILE = contract.DEFAULT_PROFILE.provenance_file
# Python models exchange images with Triton through it; docker's own default is 64 MiB.
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_BYTES = 256 * 1024 * 1024
BACKENDS = Path("/opt/tritonserver/backends")  # of NVIDIA's images


class PreflightError(Exception):
    """The container cannot serve; the message says why and what mends it."""


def profile_named(name: str) -> contract.Profile:
    """The contract's profile. Raises PreflightError that lists the known ones."""
    known = {profile.name or PLAIN_PROFILE: profile for profile in contract.PROFILES}
    if name not in known:
        raise PreflightError(f"AESTHETIC_PROFILE is {name!r}; known are {', '.join(known)}")
    return known[name]


def check_files(settings: Settings) -> None:
    """The repository has what the profile serves. Raises PreflightError."""
    profile = profile_named(settings.profile)
    missing = list(missing_files(settings.repository, profile))
    if missing:
        raise PreflightError(
            f"{settings.repository} lacks {', '.join(missing)} for the profile "
            f"{settings.profile!r}; fill it with: {EXPORT}"
        )


def missing_files(repository: Path, profile: contract.Profile) -> Iterator[str]:
    """What Triton would look for and not find, relative to the repository."""
    artifacts = {
        contract.PREPROCESS.name: "model.py",
        contract.CLIP_IMAGE.name: profile.artifact,
        contract.AESTHETIC_HEADS.name: contract.DEFAULT_PROFILE.artifact,
    }
    if profile is contract.TENSORRT:
        artifacts |= {plan.model.name: profile.artifact for plan in plans.served_plans(repository)}
    for model in contract.MODELS:
        wanted = [f"{model.name}/config.pbtxt"]
        if model.name in artifacts:
            wanted.append(f"{model.name}/1/{artifacts[model.name]}")
        if model is contract.CLIP_IMAGE and profile.name:
            wanted.append(f"{model.name}/{profile.config_file}")
            if profile.backend == "openvino":
                wanted.append(f"{model.name}/1/{profile.weights_file}")
        yield from (path for path in wanted if not (repository / path).is_file())


def check_machine(settings: Settings, machine: plans.Machine) -> None:
    """The machine has what the profile needs. Raises PreflightError."""
    profile = profile_named(settings.profile)
    if profile in contract.CPU_PROFILES.values():
        _check_backend(profile)
        return
    if not machine.gpus:
        raise PreflightError(
            f"the profile {settings.profile!r} needs a GPU and none is visible here: start the "
            "container with `--gpus all`, or set AESTHETIC_PROFILE=default to serve on the CPU"
        )
    if profile.backend == "tensorrt":
        try:
            plans.check_repository(settings.repository, machine, rebuild=EXPORT)
        except plans.PlanError as error:
            raise PreflightError(str(error)) from None


def _check_backend(profile: contract.Profile) -> None:
    if BACKENDS.is_dir() and not (BACKENDS / profile.backend).is_dir():
        raise PreflightError(
            f"this image's Triton has no {profile.backend} backend, which the profile "
            f"{profile.name or PLAIN_PROFILE!r} needs: set AESTHETIC_PROFILE=default"
        )


def read_provenance(folder: Path) -> Mapping[str, Any]:
    """The provenance beside an artifact; {} where there is none."""
    try:
        found = json.loads((folder / PROVENANCE_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_tls(settings: Settings) -> None:
    """The certificate and its key are there and readable. Raises PreflightError."""
    if settings.tls_dir is None:
        return
    for name in TLS_FILES.values():
        if not os.access(settings.tls_dir / name, os.R_OK):
            raise PreflightError(f"AESTHETIC_TLS_DIR: cannot read {settings.tls_dir / name}")


def warnings(settings: Settings, shared_memory: Path = SHARED_MEMORY) -> Iterator[str]:
    """What does not stop the server, but whoever runs it should know."""
    for model in (contract.CLIP_IMAGE.name, contract.AESTHETIC_HEADS.name):
        known = read_provenance(settings.repository / model / "1")
        if contract.SEEDED_WEIGHTS in str(known.get("weights", "")):
            yield f"{model} has weights: {contract.SEEDED_WEIGHTS}"
    if settings.admin_key is None:
        yield "no AESTHETIC_ADMIN_KEY: the administrators' protocols are closed to everybody"
    if settings.tls_dir is None:
        yield "no AESTHETIC_TLS_DIR: gRPC is not encrypted; keep it inside a trusted network"
    if shared_memory.is_dir():
        status = os.statvfs(shared_memory)
        size = status.f_blocks * status.f_frsize
        if size < SHARED_MEMORY_BYTES:
            yield (
                f"{shared_memory} has {size // 2**20} MiB: large images may fail; start the "
                "container with `--shm-size=1g`"
            )
