"""One name a run, for its temporary folder and its shared-memory regions, and who may sweep it.

The name says who owns it: `aesthetic-<pid namespace>-<pid>-<start time>-<random>-`. So a later run
can tell what a killed one left behind, in `/dev/shm` and in the temporary folder, and touches
nothing of a living run, of another user, or of another container that shares the folder.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_NAME = re.compile(r"aesthetic-(?P<space>\d+)-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}-")
# The server pastes paths into a shell command.
_PLAIN_PATH = re.compile(r"[\w./+-]+")


def new_name() -> str:
    """A name of this process's, never given before."""
    pid = os.getpid()
    return f"aesthetic-{_pid_namespace()}-{pid}-{_start_time(pid)}-{secrets.token_hex(4)}-"


def new_folder(name: str) -> Path:
    """A private folder that programs can be started from, at a path that a shell leaves alone."""
    return Path(tempfile.mkdtemp(prefix=name, dir=next(_bases(), None)))


def sweep(name: str) -> None:
    """Remove the run's shared-memory regions and folder."""
    for path in _entries(name):
        _remove(path)


def sweep_dead_runs() -> None:
    """Remove what runs of this user left that did not end by themselves."""
    for path in _entries("aesthetic-"):
        owner = _NAME.match(path.name)
        if owner and int(owner["space"]) == _pid_namespace() and not _is_alive(owner):
            _remove(path)


def leftovers(name: str) -> list[str]:
    """What is still there of a run; for tests and for the curious."""
    return sorted(path.name for path in _entries(name))


def _entries(prefix: str) -> Iterator[Path]:
    for folder in dict.fromkeys((SHARED_MEMORY, *_bases())):
        if folder.is_dir():
            yield from (path for path in folder.iterdir() if path.name.startswith(prefix))


def _bases() -> Iterator[Path]:
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        path = Path(base)
        usable = path.is_dir() and os.access(path, os.W_OK) and _PLAIN_PATH.fullmatch(base)
        if usable and not os.statvfs(path).f_flag & os.ST_NOEXEC:
            yield path


def _remove(path: Path) -> None:
    try:
        about = path.lstat()
    except FileNotFoundError:
        return
    if about.st_uid != os.getuid():
        return
    if stat.S_ISDIR(about.st_mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_alive(owner: re.Match[str]) -> bool:
    return _start_time(int(owner["pid"])) == int(owner["start"])


def _start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot: with it a pid is not mistaken for a
    later one. -1 where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return int(fields[19])


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
