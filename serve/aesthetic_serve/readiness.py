"""Wait until a started server really scores."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from aesthetic_serve.errors import StartError
from aesthetic_serve.launcher import ServerProcess
from aesthetic_serve.logs import last_lines
from aesthetic_serve.probe import CanaryError, Probe

POLL_S = 0.05


class StoppedError(Exception):
    """Somebody asked to stop while the server was starting."""


def wait_until_ready(
    process: ServerProcess,
    probe: Probe,
    *,
    canary: bool,
    timeout_s: float,
    log: Path,
    stopping: threading.Event,
) -> None:
    """Return once all models are loaded and, with `canary`, a small image has been scored.

    The canary is a self-test too: an environment whose Python process misreads images shows here.
    Raises StartError, ending with the log's last lines; StoppedError once `stopping` is set.
    """
    deadline = time.monotonic() + timeout_s
    while not probe.is_ready():
        if stopping.wait(POLL_S):
            raise StoppedError
        if not process.is_running():
            problem = f"tritonserver ended with code {process.wait()} while starting"
            raise StartError(_message(problem, log, errors=True))
        if time.monotonic() > deadline:
            raise StartError(_message(f"tritonserver was not ready after {timeout_s:g} s", log))
    if canary:
        try:
            probe.score_canary(max(1.0, deadline - time.monotonic()))
        except TimeoutError:
            problem = f"tritonserver did not score an image within {timeout_s:g} s of its start"
            raise StartError(_message(problem, log)) from None
        except CanaryError as error:
            if stopping.is_set():
                raise StoppedError from None
            problem = f"tritonserver started, but cannot score an image: {error}"
            raise StartError(_message(problem, log)) from None
    process.note_stubs()


def _message(problem: str, log: Path, *, errors: bool = False) -> str:
    return f"{problem}; the last lines of its log:\n{last_lines(log, errors=errors)}"
