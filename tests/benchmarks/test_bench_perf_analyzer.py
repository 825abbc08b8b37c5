"""What perf_analyzer writes is read right, and what it lacks is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from aesthetic_bench.errors import BenchError
from aesthetic_bench.perf_analyzer import (
    Job,
    PerfAnalyzer,
    explain_missing_library,
    read_csv,
    read_times,
)

# Written by perf_analyzer 2.51.0 for `aesthetic_heads -b 64` with `-f FILE --verbose-csv`.
CSV = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,\
Server Compute Input,Server Compute Infer,Server Compute Output,Client Recv,p50 latency,\
p90 latency,p95 latency,p99 latency,Avg latency,request/response,response wait
4,25376.4,47,1735,2170,134,4819,784,9,9502,13009,14203,19729,9702,56,9608

"""

# The same program's `--profile-export-file`, shortened: BYTES inputs stand in it as they are.
EXPORT = (
    b'{"experiments":[{"experiment":{"mode":"concurrency","value":8},"requests":['
    b'{"timestamp":1795176953985811333,"request_inputs":{"image":"\x89PNG\r\n\xff\xd8\x00"},'
    b'"response_timestamps":[1795176954310824714],"response_outputs":[{"aesthetic_score":4.5,'
    b'"embedding":[-0.02,0.01]}]},'
    b'{"timestamp":1795176954085811333,"request_inputs":{"image":"\xfe\xed"},'
    b'"response_timestamps":[1795176955310824714],"response_outputs":[{"aesthetic_score":4.6}]}],'
    b'"window_boundaries":[1795176954109306313,1795176956161558082]}],'
    b'"version":"2.51.0","service_kind":"triton","endpoint":""}'
)


def program(folder: Path, script: str) -> Path:
    path = folder / "perf_analyzer"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_csv() -> None:
    windows = read_csv(CSV)
    assert windows.items_per_s == 25376.4
    assert windows.latency.p50_ms == 9.502
    assert windows.latency.p95_ms == 14.203
    assert windows.latency.p99_ms == 19.729
    assert windows.latency.avg_ms == 9.702


@pytest.mark.parametrize("text", ["", "Concurrency\n1\n", CSV.replace("9502", "")])
def test_csv_without_figures(text: str) -> None:
    with pytest.raises(BenchError, match="CSV lacks"):
        read_csv(text)


def test_timestamps(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_bytes(EXPORT)
    times = read_times(tmp_path / "export.json")
    assert times.measured_s == pytest.approx(1.325013381)
    assert times.requests_per_s == pytest.approx(2 / 1.325013381)
    assert times.latency.p99_ms == pytest.approx(1225.01, rel=0.01)


@pytest.mark.parametrize("content", [None, b"", b"{}", EXPORT[: EXPORT.rindex(b'"response_tim')]])
def test_timestamps_that_are_not_complete(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "export.json").write_bytes(content)
    with pytest.raises(BenchError, match="perf_analyzer wrote"):
        read_times(tmp_path / "export.json")


def test_missing_program(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"pip install tritonclient==2\.51\.0.*--perf-analyzer"):
        PerfAnalyzer(tmp_path, tmp_path / "absent")


def test_missing_library(tmp_path: Path) -> None:
    complaint = (
        "perf_analyzer: error while loading shared libraries: libcudart.so.12: "
        "cannot open shared object file: No such file or directory"
    )
    path = program(tmp_path, f"echo '{complaint}' >&2; exit 127")
    with pytest.raises(BenchError, match=r"libcudart\.so\.12: pip install nvidia-cuda-runtime"):
        PerfAnalyzer(tmp_path, path)
    other = explain_missing_library("x: libz.so.1: cannot open shared object file: No such file")
    assert other == "perf_analyzer needs the library libz.so.1"


def test_a_program_that_is_not_perf_analyzer(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="does not say its version"):
        PerfAnalyzer(tmp_path, program(tmp_path, "echo hello"))


def test_a_failed_run_shows_the_last_lines(tmp_path: Path) -> None:
    script = (
        '[ "$1" = --version ] && echo Version 2.51.0 && exit 0; echo failed to connect; exit 99'
    )
    analyzer = PerfAnalyzer(tmp_path, program(tmp_path, script))
    assert analyzer.version == "2.51.0"
    job = Job("aesthetic", "127.0.0.1:1", concurrency=1)
    with pytest.raises(BenchError, match="code 99; its last lines:\nfailed to connect"):
        analyzer.run_requests(job, 4, timeout_s=10)
    with pytest.raises(BenchError, match="code 99"):
        analyzer.run_windows(job, window_s=0.1)
