"""The embedded server's life: start, death of its parts, restart, stop."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from serve_processes import files_of, processes_of, wait_for

from aesthetic_serve import EmbeddedServer, GaveUpError, PortError, ServeError, StartError
from aesthetic_serve.probe import Probe
from aesthetic_serve.stubs import children_of
from aesthetic_serve.supervisor import Policy

pytestmark = pytest.mark.triton

ME = os.getpid()


def score(server: EmbeddedServer) -> float:
    return Probe(server.ports.http).score_canary(20)


def stub_of(server: EmbeddedServer, model: str) -> int:
    for pid in children_of(server.pid):
        if f"{model}_0_0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return pid
    raise AssertionError(f"no process for {model}")


@pytest.fixture(autouse=True)
def others() -> None:
    """Notes what other tests of this process keep running, such as the shared tiny server."""
    before["processes"], before["files"] = set(processes_of(ME)), set(files_of(ME))


before: dict[str, set[object]] = {}


def assert_nothing_left() -> None:
    wait_for(lambda: set(processes_of(ME)) <= before["processes"], "every process gone", 5)
    assert set(files_of(ME)) <= before["files"]


def test_it_starts_scores_and_leaves_nothing(scoring_repository: Path) -> None:
    with EmbeddedServer(scoring_repository, start_timeout_s=60) as server:
        assert isinstance(score(server), float)
        assert server.grpc_url == f"grpc://127.0.0.1:{server.ports.grpc}"
        regions = {name for name in os.listdir("/dev/shm") if f"-{ME}-" in name}
        run = regions - before["files"]
        # Two processes for preprocess, one each for the tower and the heads: all under our prefix.
        assert len(run) == len(children_of(server.pid)) == 4
    assert_nothing_left()


def test_a_graceful_stop_ends_by_itself_and_can_be_repeated(adder_repository: Path) -> None:
    server = EmbeddedServer(adder_repository, start_timeout_s=60).start()
    waiting = threading.Thread(target=server.wait)
    waiting.start()
    server.stop(grace_s=20)
    waiting.join(10)
    assert not waiting.is_alive()
    assert server._process is not None
    assert server._process.wait() == 0, "tritonserver's own exit code after SIGTERM"
    server.stop()
    assert_nothing_left()


def test_it_listens_on_the_loopback_alone(adder_repository: Path) -> None:
    with EmbeddedServer(adder_repository, start_timeout_s=60) as server:
        ours = {server.ports.grpc, server.ports.http, server.ports.metrics}
        listening = {}
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in Path(table).read_text().splitlines()[1:]:
                local, state = line.split()[1], line.split()[3]
                address, port = local.split(":")
                if state == "0A" and int(port, 16) in ours:
                    listening[int(port, 16)] = address[-8:]  # the tail of ::ffff:127.0.0.1 too
        assert listening == dict.fromkeys(ours, "0100007F")  # 127.0.0.1, little-endian


def test_a_path_may_hold_anything(scoring_repository: Path, tmp_path: Path) -> None:
    odd = tmp_path / "my photos; $(touch pwned) 'x'"
    shutil.copytree(scoring_repository, odd)
    with EmbeddedServer(odd, start_timeout_s=60) as server:
        assert isinstance(score(server), float)


def test_two_servers_side_by_side(adder_repository: Path, scoring_repository: Path) -> None:
    with EmbeddedServer(scoring_repository, start_timeout_s=60) as first:
        with EmbeddedServer(adder_repository, start_timeout_s=60):
            pass
        assert isinstance(score(first), float), "the other's end is none of its business"


@pytest.mark.parametrize("victim", ["preprocess", "clip_image", "aesthetic_heads"])
def test_a_killed_stub_brings_a_restart_on_the_same_ports(
    scoring_repository: Path, victim: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "aesthetic_serve"),
        EmbeddedServer(scoring_repository, start_timeout_s=60) as server,
    ):
        before, ports, first = score(server), server.ports, server.pid
        os.kill(stub_of(server, victim), signal.SIGKILL)
        wait_for(lambda: server.restarts == 1, "a restart")
        assert server.ports == ports
        assert server.pid != first
        assert score(server) == pytest.approx(before)
    assert "Python processes died" in caplog.text
    assert_nothing_left()


@pytest.mark.parametrize("victim", ["server", "guard"])
def test_a_killed_server_or_guard_brings_a_restart(scoring_repository: Path, victim: str) -> None:
    with EmbeddedServer(scoring_repository, start_timeout_s=60) as server:
        assert server._process is not None
        pid = server.pid if victim == "server" else server._process._guard.pid
        orphans = children_of(server.pid)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: server.restarts == 1, "a restart")
        assert isinstance(score(server), float)
        wait_for(lambda: not orphans & set(processes_of(ME)), "the old stubs gone", 5)
    assert_nothing_left()


def test_a_stub_that_hangs_is_found_by_the_canary(scoring_repository: Path) -> None:
    policy = Policy(canary_every_s=0.5, canary_deadline_s=1.0)
    with EmbeddedServer(scoring_repository, start_timeout_s=60, policy=policy) as server:
        os.kill(stub_of(server, "clip_image"), signal.SIGSTOP)  # alive, and never answers
        wait_for(lambda: server.restarts == 1, "a restart")
        assert isinstance(score(server), float)
    assert_nothing_left()


def test_it_gives_up_after_too_many_restarts(scoring_repository: Path) -> None:
    server = EmbeddedServer(
        scoring_repository, start_timeout_s=60, policy=Policy(max_restarts=1)
    ).start()
    try:
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: server.restarts == 1, "a restart")
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(GaveUpError, match=r"gave up after 1 restarts.*tritonserver ended"):
            server.wait()
    finally:
        server.stop()
    assert_nothing_left()


def test_without_supervision_nothing_is_restarted(adder_repository: Path) -> None:
    with EmbeddedServer(adder_repository, start_timeout_s=60, supervise=False) as server:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(GaveUpError, match="ended with code 137"):
            server.wait()
        assert server.restarts == 0


SLEEPER = """
import time

class TritonPythonModel:
    def initialize(self, args):
        print("going to sleep", flush=True)
        time.sleep(600)
"""


def test_a_start_that_hangs_ends_with_the_logs_last_lines(tmp_path: Path) -> None:
    repository, log = tmp_path / "repository", tmp_path / "triton.log"
    (repository / "sleeper" / "1").mkdir(parents=True)
    (repository / "sleeper" / "1" / "model.py").write_text(SLEEPER)
    (repository / "sleeper" / "config.pbtxt").write_text(
        'backend: "python" input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ] '
        'output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]'
    )
    started = time.monotonic()
    with pytest.raises(StartError) as caught:
        EmbeddedServer(repository, start_timeout_s=2, log_file=log).start()
    assert time.monotonic() - started < 10
    assert "not ready after 2 s" in str(caught.value)
    assert "loading: sleeper:1" in str(caught.value)
    assert "loading: sleeper:1" in log.read_text(), "a log that was asked for is kept"
    assert_nothing_left()


def test_a_server_that_starts_but_cannot_score_is_refused(
    scoring_repository: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(scoring_repository, tmp_path / "broken")
    (broken / "preprocess" / "1" / "model.py").write_text(
        "import triton_python_backend_utils as pb\n"
        "class TritonPythonModel:\n"
        "    def execute(self, requests):\n"
        "        return [pb.InferenceResponse(error=pb.TritonError('out of order'))"
        " for _ in requests]\n"
    )
    config = broken / "preprocess" / "config.pbtxt"
    text = config.read_text()
    config.write_text(text[: text.index("model_warmup")])
    with pytest.raises(StartError, match=r"cannot score an image: .*out of order"):
        EmbeddedServer(broken, start_timeout_s=60).start()
    assert_nothing_left()


def test_a_busy_port_is_reported_before_anything_starts(adder_repository: Path) -> None:
    with EmbeddedServer(adder_repository, start_timeout_s=60) as first:
        second = EmbeddedServer(adder_repository, grpc_port=first.ports.grpc)
        with pytest.raises(PortError, match="--grpc-port"):
            second.start()
        with pytest.raises(ServeError, match="not running"):
            second.pid  # noqa: B018 - it raises


def test_another_configuration_can_be_picked(scoring_repository: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(scoring_repository, tmp_path / "copy")
    config = copy / "clip_image" / "config.pbtxt"
    (copy / "clip_image" / "configs").mkdir(exist_ok=True)
    (copy / "clip_image" / "configs" / "two.pbtxt").write_text(
        config.read_text().replace("{ count: 1 }", "{ count: 2 }")
    )
    with EmbeddedServer(copy, start_timeout_s=60, config_name="two") as server:
        assert len(children_of(server.pid)) == 5
