"""What the numbers were measured on, and with."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

DISTRIBUTIONS = (
    *("torch", "triton", "numpy", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt", "tensorrt-cu13-bindings", "tensorrt-rtx-cu13-bindings", "pillow"),
)
SMI_FIELDS = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.memory")


def machine(device: torch.device) -> dict[str, Any]:
    """The device in words; what nvidia-smi adds, where it is there."""
    known: dict[str, Any] = {"device": device.type, "processor": platform.machine()}
    if device.type != "cuda":
        return known
    properties = torch.cuda.get_device_properties(device)
    known |= {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "nvidia_smi": _nvidia_smi(),
    }
    return known


def versions() -> dict[str, str]:
    """Of Python, CUDA, cuDNN and every package here that had a part in it."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    if torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    if commit := _line(["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]):
        found["git_commit"] = commit
    return found


def now_utc() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _nvidia_smi() -> dict[str, str]:
    answer = _line(["nvidia-smi", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader"])
    values = [value.strip() for value in answer.split(",")] if answer else []
    return dict(zip(SMI_FIELDS, values, strict=True)) if len(values) == len(SMI_FIELDS) else {}


def _line(command: list[str]) -> str | None:
    """The first line that a program prints; None without the program or with an error."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None
