"""A small process between the launcher and tritonserver, so that no process is left behind.

It starts tritonserver and waits. When the launcher is gone, however it ended, or asks for it, the
server and all its children are killed and reaped, and their shared memory is removed.

Run by path with a bare interpreter (`python -I -S guard.py LAUNCHER_PID RUN_NAME COMMAND...`), so
standard library only and nothing of this package. Prints the server's pid. Signals:

SIGTERM, SIGINT, SIGHUP   ask the server to stop: requests in flight finish
SIGUSR1                   end it now

It does not trust the kernel's parent-death signal for the launcher's sake: that one fires when the
launcher's *thread* ends. For itself, having one thread only, it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.5  # how soon a launcher's death is noticed
REAP_S = 5.0  # how long killed processes may take to go
ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
WATCHED = (signal.SIGCHLD, signal.SIGUSR1, *ASKED)

libc = ctypes.CDLL(None)


def start(command: list[str]) -> int:
    """Start the server in a process group of its own. Returns its pid."""
    guard = os.getpid()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # whoever comes first, parent or child: it must hold from now on
        return pid
    try:
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(2, 1)  # the launcher waits for the end of our standard output
        if os.getppid() == guard:
            os.execv(command[0], command)
    finally:
        os._exit(127)


def reap() -> dict[int, int]:
    """Exit statuses of ended children, by pid; orphans of the server are children of ours too."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended[pid] = status
    return ended


def watch(server: int, launcher: int) -> int | None:
    """Wait for a reason to end. Returns the server's exit status where it ended by itself."""
    while os.getppid() == launcher:
        event = signal.sigtimedwait(WATCHED, POLL_S)
        if event is None:
            continue
        if event.si_signo == signal.SIGUSR1:
            break
        if event.si_signo in ASKED:
            os.kill(server, signal.SIGTERM)
        if (status := reap().get(server)) is not None:
            return status
    return None


def clean_up(server: int, run_name: str) -> None:
    """Kill what is left of the server's group, reap it, remove its shared memory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)
    deadline = time.monotonic() + REAP_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.01)
    for name in os.listdir("/dev/shm"):
        if name.startswith(run_name):
            with contextlib.suppress(OSError):
                os.unlink(f"/dev/shm/{name}")


def main() -> int:
    launcher, run_name, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    for number in WATCHED:
        signal.signal(number, signal.SIG_DFL)  # whoever started us may have ignored some
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    server = start(command)
    os.write(1, b"%d\n" % server)
    os.close(1)
    status = watch(server, launcher)
    clean_up(server, run_name)
    if status is None:
        return 0
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
