"""What this machine is: its GPUs and the TensorRT library that Triton will load."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIBRARY_FOLDERS = (
    Path("/usr/lib/x86_64-linux-gnu"),
    Path("/usr/lib/aarch64-linux-gnu"),
    Path("/usr/local/tensorrt/lib"),
)
_LIBRARY = re.compile(r"libnvinfer\.so\.(\d+\.\d+\.\d+)")
_NVIDIA_SMI_S = 30.0


@dataclass(frozen=True)
class Gpu:
    """A visible GPU: `NVIDIA L4` and its compute capability, `8.9`."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Machine:
    """`tensorrt` is the serving library's version with three parts, None where there is none."""

    gpus: tuple[Gpu, ...] = ()
    tensorrt: str | None = None


def this_machine(folders: Sequence[Path] = LIBRARY_FOLDERS) -> Machine:
    return Machine(_gpus(), _tensorrt(folders))


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


def _tensorrt(folders: Sequence[Path]) -> str | None:
    for folder in folders:
        for path in sorted(folder.glob("libnvinfer.so.*")):
            if found := _LIBRARY.fullmatch(path.name):
                return found[1]
    return None
