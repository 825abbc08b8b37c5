"""Start tritonserver through its guard, and end it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from aesthetic_serve import guard
from aesthetic_serve.errors import StartError
from aesthetic_serve.preflight import STUB, Wheel
from aesthetic_serve.stubs import children_of

BACKENDS = Path(__file__).parent / "backends"
OWN_BACKENDS = ("onnxruntime", "openvino")  # where Triton has none of that name
LOOPBACK = "127.0.0.1"  # this server version must never be reachable from elsewhere
EXIT_TIMEOUT_S = 10  # how long a stopping server waits for requests in flight
KILL_S = 10.0  # how long ending processes by force may take


@dataclass(frozen=True)
class Ports:
    """The three ports on 127.0.0.1."""

    grpc: int
    http: int
    metrics: int


@dataclass(frozen=True)
class Plan:
    """All that a start, and every restart, of one run needs."""

    name: str  # of the run: its shared-memory regions begin with it
    folder: Path  # the run's own
    wheel: Wheel
    ports: Ports
    log: Path
    config_name: str | None


def compose(folder: Path, wheel: Wheel, repository: Path) -> None:
    """Lay out the run's folder: the backends, and the repository under a plain path.

    The server pastes the paths of its stub and its models into a shell command: behind a link of
    our own naming a repository's path may hold spaces, or worse.
    """
    python = folder / "backends" / "python"
    shutil.copytree(wheel.python_backend, python, ignore=shutil.ignore_patterns("__pycache__"))
    # A copy, since only its owner may start it and an environment may belong to somebody else.
    shutil.copy(wheel.stub, python / STUB)
    (python / STUB).chmod(0o700)
    for name in OWN_BACKENDS:
        (folder / "backends" / name).mkdir()
        shutil.copy(BACKENDS / name / "model.py", folder / "backends" / name / "model.py")
    (folder / "repository").symlink_to(repository.resolve())
    (folder / "work").mkdir()


def command(plan: Plan) -> list[str]:
    """tritonserver's command line."""
    return [
        str(plan.wheel.binary),
        f"--model-repository={plan.folder / 'repository'}",
        f"--backend-directory={plan.folder / 'backends'}",
        # Every Python-based backend reads the settings of the backend named `python`.
        f"--backend-config=python,shm-region-prefix-name={plan.name}",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={plan.ports.grpc}",
        f"--http-address={LOOPBACK}",
        f"--http-port={plan.ports.http}",
        f"--metrics-address={LOOPBACK}",
        f"--metrics-port={plan.ports.metrics}",
        "--allow-gpu-metrics=false",
        # Our configs are complete; completing them starts every model's Python process twice,
        # a second of each start.
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        *([f"--model-config-name={plan.config_name}"] if plan.config_name else []),
    ]


def environment(wheel: Wheel) -> dict[str, str]:
    """The server's environment: its stubs find this Python environment by PATH alone."""
    own_bin = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{own_bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, wheel.libraries)),
        # The CPU server: where no GPU is seen, a config without `kind` means KIND_CPU.
        "CUDA_VISIBLE_DEVICES": "",
        # Since 1.29 ONNX Runtime's Linux wheels report model names and usage to their maker.
        "ORT_DISABLE_TELEMETRY": "1",
    }


class ServerProcess:
    """A running tritonserver with its guard. Raises StartError where it cannot even be started."""

    def __init__(self, plan: Plan) -> None:
        guarded = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), plan.name]
        with plan.log.open("ab") as log:
            # No preexec_fn: it would fork this process with all its threads and gRPC channels.
            self._guard = subprocess.Popen(
                [*guarded, *command(plan)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=plan.folder / "work",  # Python stubs import from where they stand
                env=environment(plan.wheel),
                start_new_session=True,  # a terminal's Ctrl-C is for the launcher
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as said:
            first_line = said.readline()
        if not first_line:
            self._guard.wait(KILL_S)
            raise StartError("the server's guard process ended at once")
        self.pid = int(first_line)
        self.stubs: frozenset[int] = frozenset()

    def is_running(self) -> bool:
        return self._guard.poll() is None

    def note_stubs(self) -> None:
        """Remember the children of the loaded server: from now on none may be missing."""
        self.stubs = children_of(self.pid)

    def wait(self) -> int:
        """The server's exit code, once it and its children have ended."""
        return self._guard.wait()

    def stop(self, grace_s: float) -> None:
        """Ask, wait up to `grace_s` seconds, then end by force. Nothing is left running."""
        if grace_s > 0 and self._ended_after(signal.SIGTERM, grace_s):
            return
        if not self._ended_after(signal.SIGUSR1, KILL_S):
            self._guard.kill()
            self._guard.wait()
        self._kill_group()

    def _ended_after(self, number: signal.Signals, timeout_s: float) -> bool:
        if self.is_running():
            self._guard.send_signal(number)
        try:
            self._guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _kill_group(self) -> None:
        """Where the guard itself was killed, stubs may be left in the server's group."""
        if self._guard.returncode < 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
