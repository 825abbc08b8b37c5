"""How much memory processes took at most, by the kernel's own books."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB", re.MULTILINE)


def peak_rss_mib(pid: int | None = None) -> float:
    """The most that a process (by default this one) held at once; 0.0 of one that has ended.

    Of its program alone: `ru_maxrss` would count what its parent held when it started it.
    """
    try:
        found = _PEAK.search(Path(f"/proc/{pid or os.getpid()}/status").read_text("ascii"))
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    members = [pid]
    for member in members:  # which grows meanwhile
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # it has just ended
                members += map(int, task.read_text("ascii").split())
    return members
