"""The machine and the versions, as they stand beside every figure. No host names, no paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

DISTRIBUTIONS = {
    "aesthetic_triton": "aesthetic-triton",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
    "open_clip": "open_clip_torch",
    "transformers": "transformers",
    "numpy": "numpy",
    "pillow": "Pillow",
    "tritonclient": "tritonclient",
}
# What decides how fast a tower can be on an x86 CPU.
FLAGS = re.compile(r"avx2|fma|f16c|avx512\w+|avx_vnni\w*|amx_\w+")


def machine() -> dict[str, object]:
    """CPU, cores, memory and system."""
    text = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor() or "unknown",
        "cpu_flags": [
            flag for flag in (flags[1].split() if flags else []) if FLAGS.fullmatch(flag)
        ],
        "usable_cores": usable_cores(),
        "threads_per_core": _threads_per_core(text),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average_1min_before": round(os.getloadavg()[0], 2),
    }


def usable_cores() -> int:
    """The processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def versions(triton: str, perf_analyzer: str) -> dict[str, str | None]:
    """Of everything that has a part in the figures, this project's commit included."""
    found = {name: version(distribution) for name, distribution in DISTRIBUTIONS.items()}
    return {"triton": triton, "perf_analyzer": perf_analyzer, **found, "git_commit": git_commit()}


def git_commit(folder: Path = Path(__file__).parent) -> str | None:
    """The checkout's commit, with `+changes` where files differ from it; None outside of one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/")
    except (OSError, subprocess.CalledProcessError):
        return None
    # Results are this program's own output.
    source = [line for line in changed.splitlines() if "benchmarks/results/" not in line]
    return f"{commit}+changes" if source else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def version(distribution: str) -> str | None:
    """An installed distribution's, None where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _threads_per_core(cpuinfo: str) -> float | None:
    siblings = re.search(r"^siblings\s*:\s*(\d+)", cpuinfo, re.MULTILINE)
    cores = re.search(r"^cpu cores\s*:\s*(\d+)", cpuinfo, re.MULTILINE)
    return int(siblings[1]) / int(cores[1]) if siblings and cores else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return ""
