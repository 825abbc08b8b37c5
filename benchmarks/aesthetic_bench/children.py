"""Child processes that end with this one: each case gets a fresh process, none is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import BenchError

LAST_LINES = 12  # of a failed child's output
TERMINATE_S = 5.0
HERE = Path(__file__).resolve().parents[1]


def run_child(
    command: Sequence[str], *, timeout_s: float, environment: Mapping[str, str] | None = None
) -> str:
    """The child's stdout and stderr together, once it has ended with code 0.

    Raises BenchError, with the last lines, for another code or after `timeout_s` seconds.
    """
    # A session of its own: Ctrl-C is for this process, which then ends the child by its id.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    name = Path(command[0]).name
    try:
        output, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{name} did not end within {timeout_s:.0f} s") from None
    finally:
        end_child(child)
    if child.returncode != 0:
        lines = "\n".join(output.strip().splitlines()[-LAST_LINES:])
        raise BenchError(f"{name} ended with code {child.returncode}; its last lines:\n{lines}")
    return output


def run_module(
    module: str, task: Mapping[str, Any], scratch: Path, *, timeout_s: float
) -> dict[str, Any]:
    """Run `python -m aesthetic_bench.MODULE` on a task and return the result that it writes.

    Both travel as JSON files in `scratch`. Raises BenchError as `run_child` does.
    """
    ask, answer = scratch / f"{module}-task.json", scratch / f"{module}-result.json"
    ask.write_text(json.dumps(task), "utf-8")
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"aesthetic_bench.{module}", str(ask), str(answer)]
    run_child(command, timeout_s=timeout_s, environment=child_environment())
    result: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    return result


def child_environment() -> dict[str, str]:
    """This process's environment, in which a child finds `aesthetic_bench` too."""
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(HERE), *([inherited] if inherited else [])])
    return {**os.environ, "PYTHONPATH": path}


def end_child(child: subprocess.Popen[str]) -> None:
    """End a child that still runs, by its id, and close what it was read from."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(TERMINATE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout is not None:
        child.stdout.close()
