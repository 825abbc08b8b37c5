"""Keep a server working: notice when it does not, and start it anew on the same ports."""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aesthetic_client import contract
from aesthetic_serve.errors import GaveUpError, ServeError
from aesthetic_serve.launcher import ServerProcess
from aesthetic_serve.logs import last_lines
from aesthetic_serve.probe import CanaryError, Probe
from aesthetic_serve.readiness import StoppedError
from aesthetic_serve.stubs import dead_among

logger = logging.getLogger("aesthetic_serve")


@dataclass(frozen=True)
class Policy:
    """When to look, how long to wait (all in seconds), and when to give up."""

    check_every_s: float = 0.5  # processes: two small files a model
    canary_every_s: float = 30.0  # inference; the canary costs a second of CPU, if there is need
    canary_deadline_s: float = 60.0
    max_restarts: int = 5  # within the window; one more and it gives up
    window_s: float = 600.0
    longest_pause_s: float = 30.0


class Supervisor:
    """Watches one run's server in a thread of its own.

    `launch` starts a server and returns it once it is ready; it raises ServeError where that fails
    and StoppedError where stopping was asked for.
    """

    def __init__(
        self,
        launch: Callable[[], ServerProcess],
        probe: Probe,
        *,
        canary: bool,
        log: Path,
        stopping: threading.Event,
        policy: Policy | None = None,
    ) -> None:
        self.restarts = 0
        self.failure: GaveUpError | None = None
        self.finished = threading.Event()
        self._launch = launch
        self._probe = probe
        self._canary = canary
        self._log = log
        self._stopping = stopping
        self._policy = policy or Policy()
        self._seen = 0  # image requests answered at the last look
        self._begun: list[float] = []  # when the restarts within the window began
        self._thread = threading.Thread(target=self._run, name="aesthetic-supervisor", daemon=True)

    def watch(self, process: ServerProcess) -> None:
        """Begin to watch a server that is ready."""
        self._process = process
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            next_canary = time.monotonic() + self._policy.canary_every_s
            while not self._stopping.wait(self._policy.check_every_s):
                problem = self._dead_process()
                if problem is None and self._canary and time.monotonic() >= next_canary:
                    problem = self._stuck()
                    next_canary = time.monotonic() + self._policy.canary_every_s
                if problem is not None and not self._stopping.is_set():
                    self._restart(problem)
                    next_canary = time.monotonic() + self._policy.canary_every_s
        except StoppedError:
            pass
        except GaveUpError as error:
            self.failure = error
            logger.error("%s", error)
        finally:
            self.finished.set()

    def _dead_process(self) -> str | None:
        process = self._process
        if not process.is_running():
            return "tritonserver ended"
        if dead := dead_among(process.stubs, process.pid):
            # The server itself never starts it again, and goes on to call itself ready.
            return f"{len(dead)} of its {len(process.stubs)} Python processes died"
        return None

    def _stuck(self) -> str | None:
        """Whether nothing comes out any more. Real traffic is proof enough; else a canary asks."""
        try:
            answered = self._images_answered()
            if answered > self._seen:
                return None
            self._probe.score_canary(self._policy.canary_deadline_s)
        except TimeoutError:
            # Behind a long queue the canary waits like everybody; as long as others are answered
            # the server is busy, not stuck.
            return None if self._moved_on() else "the canary image had no answer in time"
        except (CanaryError, OSError, http.client.HTTPException, ValueError, KeyError) as error:
            return f"the canary image failed: {error}"
        finally:
            self._moved_on()
        return None

    def _moved_on(self) -> bool:
        """Whether images were answered since the last look, which this is."""
        try:
            answered = self._images_answered()
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False
        before, self._seen = self._seen, answered
        return answered > before

    def _images_answered(self) -> int:
        counts = self._probe.successes()
        return sum(counts.get(m.name, 0) for m in (contract.AESTHETIC, contract.AESTHETIC_PIXELS))

    def _restart(self, problem: str) -> None:
        """Replace the server. Raises GaveUpError when that was needed too often."""
        while True:
            self._process.stop(grace_s=0)
            pause_s = self._pause_before_restart(problem)
            logger.warning("restarting the server: %s", problem)
            if self._stopping.wait(pause_s):
                raise StoppedError
            started = time.monotonic()
            try:
                self._process = self._launch()
            except ServeError as error:
                problem = str(error)
                continue
            self._seen = 0
            self.restarts += 1
            logger.warning("the server works again after %.1f s", time.monotonic() - started)
            return

    def _pause_before_restart(self, problem: str) -> float:
        """0 s, then 1, 2, 4 ... within the window. Raises GaveUpError after too many."""
        now, policy = time.monotonic(), self._policy
        self._begun = [begun for begun in self._begun if now - begun < policy.window_s]
        earlier = len(self._begun)
        if earlier >= policy.max_restarts:
            raise GaveUpError(
                f"gave up after {earlier} restarts in {policy.window_s:g} s ({problem}); the last "
                f"lines of the server's log:\n{last_lines(self._log)}"
            )
        self._begun.append(now)
        return min(2.0 ** (earlier - 1), policy.longest_pause_s) if earlier else 0.0
