"""A Triton server that belongs to this process: starts with it, ends with it, heals meanwhile."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType

from aesthetic_client import contract
from aesthetic_serve import runs
from aesthetic_serve.errors import GaveUpError, ServeError
from aesthetic_serve.launcher import LOOPBACK, Plan, Ports, ServerProcess, compose
from aesthetic_serve.logs import last_lines
from aesthetic_serve.ports import choose_ports
from aesthetic_serve.preflight import locate_server
from aesthetic_serve.probe import Probe
from aesthetic_serve.profiles import check_profile
from aesthetic_serve.readiness import StoppedError, wait_until_ready
from aesthetic_serve.repository import check_repository
from aesthetic_serve.supervisor import Policy, Supervisor

START_TIMEOUT_S = 120.0
STOP_GRACE_S = 15.0  # above the server's own wait for requests in flight


class EmbeddedServer:
    """tritonserver on 127.0.0.1 over a model repository, for as long as this process wants it.

    `None` for a port takes a free one. Where the repository holds the `aesthetic` ensemble the
    server counts as ready once it has scored a small image. With `supervise` a server that died or
    got stuck is started again on the same ports. `config_name` picks `configs/NAME.pbtxt` of each
    model over its `config.pbtxt`.

    A context manager: leaving the block ends the server at once; `stop()` lets requests finish.
    """

    def __init__(
        self,
        repository: Path,
        *,
        grpc_port: int | None = None,
        http_port: int | None = None,
        metrics_port: int | None = None,
        log_file: Path | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        supervise: bool = True,
        config_name: str | None = None,
        policy: Policy | None = None,
    ) -> None:
        self._repository = Path(repository)
        self._asked_ports = (grpc_port, http_port, metrics_port)
        self._log_file = log_file
        self._start_timeout_s = start_timeout_s
        self._supervise = supervise
        self._config_name = config_name
        self._policy = policy
        self._owner = os.getpid()
        self._lock = threading.Lock()  # between a restart that launches and a stop
        self._stopping = threading.Event()
        self._models: frozenset[str] = frozenset()
        self._plan: Plan | None = None
        self._process: ServerProcess | None = None
        self._supervisor: Supervisor | None = None

    def start(self) -> EmbeddedServer:
        """Return once the server scores. Raises a ServeError that says how to mend it."""
        if self._plan is not None:
            raise ServeError("this server was started already; make another one")
        self._models = check_repository(self._repository, self._config_name)
        check_profile(self._repository, self._config_name)
        wheel = locate_server()
        ports = choose_ports(*self._asked_ports)
        runs.sweep_dead_runs()
        name = runs.new_name()
        try:
            folder = runs.new_folder(name)
            log = self._log_file or folder / "server.log"
            self._plan = Plan(name, folder, wheel, ports, log, self._config_name)
            compose(folder, wheel, self._repository)
            process = self._launch()
            if self._supervise:
                self._start_supervisor(process)
        except BaseException:
            self.stop(grace_s=0)
            runs.sweep(name)
            raise
        return self

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """End the server; requests in flight have `grace_s` seconds. Can be repeated."""
        if os.getpid() != self._owner:
            return  # a forked child does not own its parent's server
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is not None:
            process.stop(grace_s)
        if self._supervisor is not None:
            self._supervisor.join(STOP_GRACE_S)
        if self._plan is not None:
            runs.sweep(self._plan.name)

    def wait(self) -> None:
        """Return once the server was stopped. Raises GaveUpError where it could not be kept up."""
        if self._supervisor is not None:
            self._supervisor.finished.wait()
            if self._supervisor.failure is not None:
                raise self._supervisor.failure
        elif self._process is not None:
            code = self._process.wait()
            if not self._stopping.is_set():
                lines = last_lines(self._running_plan.log)
                raise GaveUpError(f"tritonserver ended with code {code}; its log:\n{lines}")

    @property
    def ports(self) -> Ports:
        return self._running_plan.ports

    @property
    def grpc_url(self) -> str:
        return f"grpc://{LOOPBACK}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.http}"

    @property
    def metrics_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.metrics}/metrics"

    @property
    def models(self) -> frozenset[str]:
        """The names of the models in the repository."""
        return self._models

    @property
    def pid(self) -> int:
        """tritonserver's process id; another one after a restart."""
        if self._process is None:
            raise ServeError("the server is not running")
        return self._process.pid

    @property
    def restarts(self) -> int:
        """How often the server was started anew, and worked again."""
        return self._supervisor.restarts if self._supervisor is not None else 0

    def provenance(self, model: str = contract.CLIP_IMAGE.name) -> dict[str, str]:
        """Where the served model's numbers come from; empty where its config does not say."""
        return Probe(self.ports.http).provenance(model)

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The block is over, so no request of its own is in flight; nothing to wait seconds for.
        self.stop(grace_s=0)

    @property
    def _running_plan(self) -> Plan:
        if self._plan is None:
            raise ServeError("the server is not running")
        return self._plan

    def _start_supervisor(self, process: ServerProcess) -> None:
        self._supervisor = Supervisor(
            self._launch,
            Probe(self.ports.http),
            canary=contract.AESTHETIC.name in self._models,
            log=self._running_plan.log,
            stopping=self._stopping,
            policy=self._policy,
        )
        self._supervisor.watch(process)

    def _launch(self) -> ServerProcess:
        """Start the server and wait until it scores; on failure nothing of it is left running."""
        plan = self._running_plan
        with self._lock:
            if self._stopping.is_set():
                raise StoppedError
            process = self._process = ServerProcess(plan)
        try:
            wait_until_ready(
                process,
                Probe(plan.ports.http),
                canary=contract.AESTHETIC.name in self._models,
                timeout_s=self._start_timeout_s,
                log=plan.log,
                stopping=self._stopping,
            )
        except BaseException:
            process.stop(grace_s=0)
            raise
        return process
