"""The command: a real smoke run on the CPU, and what it does when things are missing or late."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from bench_gpu_path import FOLDER
from gpu_bench import parent, table
from gpu_bench.engines import ENGINES
from gpu_bench.jobs import MATRIX, REFERENCE, Job

OPTIONS = parent.Options(smoke=True, batches=(1, 2), seconds=0.01, budget_s=60.0)


def say(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run as a user starts it, with a wheel of ours to install."""
    folder = tmp_path_factory.mktemp("smoke")
    wheels = folder / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "carried-1.0-py3-none-any.whl", "w") as wheel:
        info = "carried-1.0.dist-info"
        wheel.writestr("carried.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr(f"{info}/RECORD", "")
    output = folder / "out" / "result.json"
    command = [sys.executable, FOLDER / "run.py", "--cpu-smoke", "--output", output]
    command += ["--wheels", wheels, "--seconds", "0.01", "--batches", "1,2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    return {**record, "printed": done.stdout, "said": done.stderr}


def test_every_engine_is_measured_or_named(smoke: dict[str, Any]) -> None:
    assert smoke["smoke"] is True
    assert set(smoke["engines"]) == set(ENGINES)
    for name, result in smoke["engines"].items():
        if name == "tensorrt_fp16":
            assert "TensorRT" in result["skipped"]
            continue
        assert "failed" not in result, result
        assert [row["batch"] for row in result["batches"]] == [1, 2]
        for row in result["batches"]:
            assert row["images_per_s"] > 0 and row["p50_ms"] <= row["p99_ms"]
            assert row["fraction_of_limit"] == pytest.approx(
                row["tflops"] / smoke["matrix"]["best_tflops"]
            )
        assert result["parity"]["cosine_min"] > 0.9999
        assert len(result["parity"]["score_max_difference"]) == 5
    assert smoke["limit_images_per_s"] > 0
    assert smoke["reference_fp32"] == {"images": 4}
    assert "meaningless" in smoke["weights"] and "meaningless" in smoke["heads"]
    assert {"python", "torch"} <= set(smoke["versions"])
    assert "installing 1 wheels" in smoke["said"]


def test_the_table_says_the_same(smoke: dict[str, Any]) -> None:
    printed = smoke["printed"]
    assert "none of these figures mean anything" in printed
    assert "tensorrt_fp16: skipped" in printed
    assert printed.count("images/s") >= 6


def test_without_cuda_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / "run.py", "--output", tmp_path / "x.json"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "sees no CUDA device" in done.stderr and "--cpu-smoke" in done.stderr
    assert not (tmp_path / "x.json").exists()


def test_what_there_is_no_time_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr(parent.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(parent, "run_child", lambda job, *rest: seen.append(job.name) or {})
    record = parent.run(OPTIONS, say)
    assert seen == [MATRIX, REFERENCE]
    assert record["engines"] == {name: {"skipped": "out of time"} for name in ENGINES}
    assert record["limit_images_per_s"] is None
    assert "out of time" in "\n".join(table.lines(record))


def job(work: Path, name: str = MATRIX) -> Job:
    options = parent.Options(smoke=True, batches=(1,), seconds=0.01, budget_s=1.0)
    return parent.replace(parent._job(options, work), name=name, deadline=float("inf"))


def test_a_child_that_dies_leaves_what_it_had(tmp_path: Path) -> None:
    found = parent.run_child(job(tmp_path, "no_such_engine"), tmp_path, dict(os.environ), 120)
    assert found["failed"].startswith("exit code 1: ")


def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "hang.py"
    script.write_text(
        "import sys, time\nopen(sys.argv[3], 'w').write('{\"ready_s\": 1}')\ntime.sleep(60)\n"
    )
    monkeypatch.setattr(parent, "RUN", script)
    found = parent.run_child(job(tmp_path), tmp_path, dict(os.environ), 2)
    assert found == {"ready_s": 1, "failed": "ended after 2 s"}


def test_a_finished_batch_is_not_lost_to_the_next(tmp_path: Path) -> None:
    record: dict[str, Any] = {
        "matrix": {"best_tflops": 100.0},
        "tower": {"flops_per_image": 162e9},
        "engines": {"a": {"batches": [{"batch": 1, "images_per_s": 100.0}, {"batch": 8}]}},
    }
    parent.add_fractions(record)
    row = record["engines"]["a"]["batches"][0]
    assert row["tflops"] == pytest.approx(16.2)
    assert row["fraction_of_limit"] == pytest.approx(0.162)
    assert record["limit_images_per_s"] == pytest.approx(100e12 / 162e9)


def test_no_result_is_committed_without_a_gpu() -> None:
    """A figure of a GPU needs its JSON, and that JSON a GPU."""
    for path in sorted((FOLDER.parent / "results").glob("gpu-*.json")):
        record = json.loads(path.read_text())
        assert record["smoke"] is False and record["machine"]["gpu"], path
