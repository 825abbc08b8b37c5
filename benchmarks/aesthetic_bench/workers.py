"""Children that stay: each holds one engine, waits, and works only while it is told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from select import select
from typing import Any

from .children import LAST_LINES, child_environment, end_child
from .errors import BenchError

Answer = dict[str, Any]


class Worker:
    """A process of `python -m aesthetic_bench.engine_worker`, which answers one line a question.

    `task` says what it loads; what it prints itself is kept in `scratch`. A context manager: the
    process ends with the block, however that ends.
    """

    def __init__(self, name: str, task: Mapping[str, Any], scratch: Path) -> None:
        self.name = name
        self._began = time.perf_counter()
        self._log = scratch / f"worker-{len(list(scratch.glob('worker-*.log')))}.log"
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for this process, which then ends the child by its id.
            self._child = subprocess.Popen(
                [sys.executable, "-m", "aesthetic_bench.engine_worker", json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=child_environment(),
                start_new_session=True,
            )
        self._unread = b""
        self.pid = self._child.pid

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child.stdin is not None:
            self._child.stdin.close()
        end_child(self._child)

    def wait_until_ready(self, timeout_s: float) -> Answer:
        """Its first answer, with `load_s`: from the process's start to its first result."""
        answer = self._answer(timeout_s)
        return {**answer, "load_s": time.perf_counter() - self._began}

    def ask(self, question: Mapping[str, Any], timeout_s: float) -> Answer:
        """Its answer. Raises BenchError where the process ended, or is silent for `timeout_s`."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(question) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer(timeout_s)

    def _answer(self, timeout_s: float) -> Answer:
        assert self._child.stdout is not None
        pipe, end = self._child.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            if not select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                raise BenchError(f"{self.name}: no answer within {timeout_s:.0f} s")
            read = os.read(pipe, 1 << 16)
            if not read:
                raise self._ended()
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        answer: Answer = json.loads(line)
        return answer

    def _ended(self) -> BenchError:
        code = self._child.wait()
        lines = self._log.read_text("utf-8", errors="replace").strip().splitlines()
        shown = "\n".join(lines[-LAST_LINES:])
        return BenchError(f"{self.name} ended with code {code}; its last lines:\n{shown}")
