"""Runs of the real command, and what they leave, in a form that can be compared."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

COMMAND = (sys.executable, "-m", "aesthetic_client.cli", "curate")


def curate(*arguments: object, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """`aesthetic curate ...`, run to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s
    )


def started(*arguments: object) -> subprocess.Popen[str]:
    """`aesthetic curate ...` in a process group of its own, with its stderr in a pipe."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of every scored shard, by its name."""
    return {
        str(path.relative_to(folder).with_suffix("")): pq.read_table(path).to_pylist()
        for path in sorted(folder.rglob("*.parquet"))
    }


def stats_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        str(path.relative_to(folder)).removesuffix("_stats.json"): json.loads(path.read_text())
        for path in sorted(folder.rglob("*_stats.json"))
    }


def hashes(folder: Path, suffix: str) -> dict[str, str]:
    """sha256 of each file with the suffix, by its name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob(f"*{suffix}"))
    }


def all_files(folder: Path) -> set[str]:
    """Every file, hidden and temporary ones too."""
    return {
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
    }
