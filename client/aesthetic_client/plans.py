"""Does a TensorRT plan fit this machine? Asked before Triton tries, answered in a sentence.

A plan runs on the TensorRT version and the GPU architecture that it was built with, on no other.
Standard library only: the serving container's entrypoint asks without torch or TensorRT's bindings.
`python -m aesthetic_client.plans REPOSITORY` exits with 0, or with 2 and the sentence on stderr.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aesthetic_client import contract
from aesthetic_client.errors import InputError

PROVENANCE_FILE = contract.TENSORRT.provenance_file
REBUILD = "aesthetic export --target tensorrt"

# Where the library lies in NVIDIA's images, and where its archive is usually unpacked.
LIBRARY_FOLDERS = (
    Path("/usr/lib/x86_64-linux-gnu"),
    Path("/usr/lib/aarch64-linux-gnu"),
    Path("/usr/local/tensorrt/lib"),
    Path("/usr/local/tensorrt/targets/x86_64-linux-gnu/lib"),
)
_LIBRARY = re.compile(r"libnvinfer\.so\.(\d+\.\d+\.\d+)(\.\d+)?")
_VERSION_PARTS = 3  # the library's file name has no more; the fourth counts builds of one version
_NVIDIA_SMI_S = 30.0


class PlanError(InputError):
    """A plan that cannot be served here; the message says why, and the command that rebuilds it."""


@dataclass(frozen=True)
class Gpu:
    """A visible GPU: its name, `NVIDIA L4`, and compute capability, `8.9`."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Machine:
    """`tensorrt` is the version of the library that Triton loads, None where none was found."""

    gpus: tuple[Gpu, ...] = ()
    tensorrt: str | None = None


def check_plan(
    provenance: Mapping[str, Any],
    machine: Machine,
    *,
    plan: object = contract.TENSORRT.artifact,
    rebuild: str = REBUILD,
) -> None:
    """Compare what a plan was built with, and on, with what would run it.

    `provenance` is provenance.tensorrt.json's content; `plan` what to call the plan, `rebuild` the
    command to name. A machine whose TensorRT is unknown is not judged by it. Every GPU has to fit:
    Triton puts an instance on each. Raises PlanError.
    """
    version = provenance.get("tensorrt")
    capability = provenance.get("compute_capability")
    if not isinstance(version, str) or not isinstance(capability, str):
        raise PlanError(
            f"{plan} does not say which TensorRT and GPU it was built with; build it anew: "
            f"{rebuild}"
        )
    reasons = []
    if not machine.gpus:
        reasons.append("no GPU is visible here")
    others = [gpu for gpu in machine.gpus if gpu.compute_capability != capability]
    if others:
        found = " and ".join(
            dict.fromkeys(
                f"{gpu.name} (compute capability {gpu.compute_capability})" for gpu in others
            )
        )
        reasons.append(f"this machine has {found}")
    if machine.tensorrt is not None and _release(machine.tensorrt) != _release(version):
        reasons.append(f"this machine has TensorRT {machine.tensorrt}")
    if reasons:
        built_on = provenance.get("gpu") or "a GPU"
        raise PlanError(
            f"{plan} was built by TensorRT {version} on {built_on} (compute capability "
            f"{capability}), but {' and '.join(reasons)}; build it where it serves: {rebuild}"
        )


def check_repository(repository: Path, machine: Machine, *, rebuild: str | None = None) -> None:
    """Each plan of a model repository: there, whole, of the ONNX file beside it, and for `machine`.

    Reads file sizes and JSON only. `rebuild` is the command to name, by default ours with this
    repository. Raises PlanError for the first that Triton could not or should not serve.
    """
    rebuild = rebuild or f"{REBUILD} --repository {repository}"
    for plan in served_plans(repository):
        _check_files(repository / plan.model.name / "1", plan.source, machine, rebuild)


def served_plans(repository: Path) -> list[contract.Plan]:
    """The plans that Triton would load: an optional one's config is there only with its plan."""
    return [
        plan
        for plan in contract.PLANS
        if not plan.optional
        or (repository / plan.model.name / contract.TENSORRT.config_file).is_file()
    ]


def this_machine(folders: Sequence[Path] = LIBRARY_FOLDERS) -> Machine:
    """The GPUs that nvidia-smi lists, and the version in the TensorRT library's file name."""
    return Machine(_gpus(), _library_version(folders))


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the repository's plans fit this machine, 2 when one does not."""
    parser = argparse.ArgumentParser(
        prog="python -m aesthetic_client.plans",
        description="Do the TensorRT plans of a model repository fit this machine?",
    )
    parser.add_argument("repository", type=Path, help="the model repository that Triton serves")
    parser.add_argument("--rebuild", help=f"the command to name in a refusal (default: {REBUILD})")
    parsed = parser.parse_args(arguments)
    machine = this_machine()
    try:
        check_repository(parsed.repository, machine, rebuild=parsed.rebuild)
    except PlanError as error:
        print(error, file=sys.stderr)
        return 2
    note = "" if machine.tensorrt else "; no TensorRT library was found to compare with"
    served = " and ".join(plan.model.name for plan in served_plans(parsed.repository))
    print(f"{contract.TENSORRT.artifact} of {served} fits this machine{note}")
    return 0


def _check_files(folder: Path, source: contract.Profile, machine: Machine, rebuild: str) -> None:
    plan = folder / contract.TENSORRT.artifact
    if not plan.is_file():
        raise PlanError(f"{plan} is not there; build it: {rebuild}")
    built = _read(folder / PROVENANCE_FILE)
    check_plan(built, machine, plan=plan, rebuild=rebuild)
    size = plan.stat().st_size
    if built.get("plan_bytes") not in (None, size):
        raise PlanError(
            f"{plan} has {size} bytes, but was built with {built['plan_bytes']}: it was cut or "
            f"replaced; build it anew: {rebuild}"
        )
    hashes = _read(folder / source.provenance_file).get("artifact_sha256")
    now = hashes.get(source.artifact) if isinstance(hashes, dict) else None
    if now is not None and built.get("onnx_sha256") != now:
        raise PlanError(
            f"{plan} was built from another {source.artifact} than the one beside it; build it "
            f"anew: {rebuild}"
        )


def _release(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:_VERSION_PARTS])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_S)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    rows = [line.rsplit(",", 1) for line in lines if "," in line]
    return tuple(Gpu(name.strip(), capability.strip()) for name, capability in rows)


def _library_version(folders: Sequence[Path]) -> str | None:
    for folder in folders:
        for path in sorted(folder.glob("libnvinfer.so.*")):
            if found := _LIBRARY.fullmatch(path.name):
                return found[1]
    return None


if __name__ == "__main__":
    sys.exit(main())
