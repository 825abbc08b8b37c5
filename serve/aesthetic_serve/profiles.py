"""A profile of the contract in a repository: is it there, whole, and for this machine?"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from aesthetic_client import contract
from aesthetic_serve.errors import RepositoryError, SetupError

OPENVINO_INSTALL = "pip install 'aesthetic-triton[openvino]'"
CPU_INFO = Path("/proc/cpuinfo")
# Instructions that a precision is fast by, as Linux names them; any of a row will do.
_INSTRUCTIONS = {
    "bf16": ("avx512_bf16", "amx_bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
}


def check_profile(repository: Path, config_name: str | None) -> None:
    """That Triton would find what `configs/NAME.pbtxt` serves; it would take another in silence.

    Raises RepositoryError, or SetupError without the package that serves it.
    """
    if not config_name:
        return
    profile = {profile.name: profile for profile in contract.PROFILES}.get(config_name)
    if profile is None or profile not in contract.CPU_PROFILES.values():
        if not any(repository.glob(f"*/configs/{config_name}.pbtxt")):
            raise RepositoryError(
                f"no model of {repository} has configs/{config_name}.pbtxt; for a CPU there are "
                f"{', '.join(contract.CPU_PROFILES)}"
            )
        return
    folder = repository / contract.CLIP_IMAGE.name
    wanted = (
        profile.config_file,
        *(f"1/{name}" for name in (profile.artifact, profile.weights_file)),
    )
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        raise RepositoryError(
            f"the model repository {repository} has no profile {config_name} (it lacks "
            f"{', '.join(f'{folder.name}/{name}' for name in missing)}); add it with: aesthetic "
            f"export --repository {repository} --model {folder.name} --precision {config_name}"
        )
    if importlib.util.find_spec("openvino") is None:
        raise SetupError(
            f"the profile {config_name} needs OpenVINO; install it: {OPENVINO_INSTALL}"
        )


def slow_here(precision: str, cpu_info: Path = CPU_INFO) -> str | None:
    """Why the precision is not fast on this machine's CPU; None where it is."""
    wanted = _INSTRUCTIONS.get(precision)
    try:
        there = set(cpu_info.read_text("utf-8").split())
    except OSError:
        return None
    if wanted is None or there.intersection(wanted):
        return None
    return (
        f"this CPU has none of the instructions {', '.join(wanted)}: the profile {precision} "
        "may be slower here than fp32, and its scores other than those that were compared"
    )
