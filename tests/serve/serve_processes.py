"""Watching the processes and files that servers make."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 30.0


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Return once the condition holds; fail after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def processes_of(launcher: int) -> list[int]:
    """Every living process of the servers that this launcher started: guards, servers, stubs."""
    run = re.compile(rf"aesthetic-\d+-{launcher}-\d+-".encode())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if run.search((entry / "cmdline").read_bytes()):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def files_of(launcher: int) -> list[str]:
    """What lies in /dev/shm and in the temporary folder of that launcher's runs."""
    from aesthetic_serve.runs import leftovers

    return [name for name in leftovers("aesthetic-") if f"-{launcher}-" in name]
