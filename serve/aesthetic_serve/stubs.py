"""A server's Python processes, looked up in /proc."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

DEAD_STATES = "ZX"  # a killed stub stays a zombie: the server does not look after it


def children_of(pid: int) -> frozenset[int]:
    """The living children of that process."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            state, parent = _state_and_parent(int(entry.name))
            if parent == pid and state not in DEAD_STATES:
                found.add(int(entry.name))
    return frozenset(found)


def dead_among(pids: Iterable[int], parent: int) -> list[int]:
    """Those of `pids` that no longer are living children of `parent`."""
    return [pid for pid in pids if not _is_living_child(pid, parent)]


def _is_living_child(pid: int, parent: int) -> bool:
    state, found_parent = _state_and_parent(pid)
    return found_parent == parent and state not in DEAD_STATES


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        # "pid (name) state parent ...", and a name may hold blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", -1
    return fields[0], int(fields[1])
