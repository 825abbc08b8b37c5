"""`aesthetic serve` as a process: its words, its signals, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_processes import files_of, processes_of, wait_for

from aesthetic_client import contract
from aesthetic_serve import runs
from aesthetic_serve.ports import choose_ports

pytestmark = pytest.mark.triton

SERVE = "import sys; from aesthetic_client.cli import main; sys.exit(main(sys.argv[1:]))"


def port_options() -> list[str]:
    ports = choose_ports(None, None, None)
    return [
        f"--grpc-port={ports.grpc}",
        f"--http-port={ports.http}",
        f"--metrics-port={ports.metrics}",
    ]


@contextlib.contextmanager
def serving(repository: Path, output: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own; killed after, should it still be there."""
    with output.open("wb") as file:
        command = [sys.executable, "-c", SERVE, "serve", f"--repository={repository}"]
        process = subprocess.Popen(
            [*command, *port_options(), *options], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def is_ready(process: subprocess.Popen[bytes], output: Path) -> bool:
    assert process.poll() is None, output.read_text()
    return "Ctrl-C stops it" in output.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(
    scoring_repository: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "output"
    with serving(scoring_repository, output) as process:
        wait_for(lambda: is_ready(process, output), "the introduction")
        assert re.search(
            r"Try:  aesthetic score photo\.jpg --url grpc://127\.0\.0\.1:\d+", (output.read_text())
        )
        assert processes_of(process.pid)
        process.send_signal(number)
        assert process.wait(30) == 0
        assert processes_of(process.pid) == []
        assert files_of(process.pid) == []
        assert "Traceback" not in output.read_text()


def test_a_signal_while_starting_stops_it_cleanly(tmp_path: Path) -> None:
    sleeper = tmp_path / "repository" / "sleeper"
    (sleeper / "1").mkdir(parents=True)
    (sleeper / "1" / "model.py").write_text(
        "import time\nclass TritonPythonModel:\n    def initialize(self, a):\n"
        "        time.sleep(600)\n"
    )
    io = "[ { name: 'x' data_type: TYPE_FP32 dims: [ 1 ] } ]"
    (sleeper / "config.pbtxt").write_text(f"backend: 'python' input {io} output {io}")
    output = tmp_path / "output"
    with serving(tmp_path / "repository", output) as process:
        wait_for(lambda: len(processes_of(process.pid)) >= 3, "guard, server and stub")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, output.read_text()
        assert processes_of(process.pid) == []
        assert files_of(process.pid) == []


def test_a_killed_launcher_takes_everything_along(scoring_repository: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with serving(scoring_repository, output) as process:
        wait_for(lambda: is_ready(process, output), "the introduction")
        assert len(processes_of(process.pid)) == 6  # guard, server, four Python processes
        process.kill()
        process.wait(10)
        wait_for(lambda: not processes_of(process.pid), "all processes gone", 10)
        runs.sweep_dead_runs()  # as the next start does
        assert files_of(process.pid) == []


def test_launcher_and_guard_killed_together_leave_no_process(
    scoring_repository: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    with serving(scoring_repository, output) as process:
        wait_for(lambda: is_ready(process, output), "the introduction")
        pids = processes_of(process.pid)
        guards = [p for p in pids if b"guard.py" in Path(f"/proc/{p}/cmdline").read_bytes()]
        assert len(guards) == 1
        process.kill()
        os.kill(guards[0], signal.SIGKILL)
        process.wait(10)
        wait_for(lambda: not processes_of(process.pid), "all processes gone", 15)
        runs.sweep_dead_runs()
        assert files_of(process.pid) == []


def test_meaningless_weights_are_said_loudly(scoring_repository: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(scoring_repository, tmp_path / "copy")
    with (copy / "clip_image" / "config.pbtxt").open("a") as config:
        config.write(
            f'parameters {{ key: "provenance.weights" '
            f'value {{ string_value: "{contract.SEEDED_WEIGHTS}" }} }}'
        )
    output = tmp_path / "output"
    with serving(copy, output) as process:
        wait_for(lambda: is_ready(process, output), "the introduction")
        assert f"WARNING: clip_image has weights: {contract.SEEDED_WEIGHTS}" in output.read_text()


def test_restarts_are_reported(scoring_repository: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with serving(scoring_repository, output) as process:
        wait_for(lambda: is_ready(process, output), "the introduction")
        stubs = [
            pid
            for pid in processes_of(process.pid)
            if b"_stub" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        ]
        os.kill(stubs[0], signal.SIGKILL)
        wait_for(lambda: "works again" in output.read_text(), "the report")


def test_a_repository_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with serving(tmp_path / "none", output) as process:
        assert process.wait(30) == 2
    text = output.read_text()
    assert f"aesthetic export --repository {tmp_path / 'none'}" in text
    assert "Traceback" not in text
