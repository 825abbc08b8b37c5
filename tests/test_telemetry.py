"""ONNX Runtime and OpenVINO report to their makers unless kept from it; all of ours does that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aesthetic_serve.launcher import BACKENDS, environment
from aesthetic_serve.preflight import locate_server

SESSION_FILE = ".ses"  # what the reporting part leaves in the temporary folder


def written(program: str, folder: Path, **variables: str) -> set[str]:
    """Files that a fresh Python leaves in its temporary folder."""
    folder.mkdir(exist_ok=True)
    inherited = {
        key: value
        for key, value in os.environ.items()
        if key not in ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
    }
    subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, "TMPDIR": str(folder), **variables},
        check=True,
        timeout=120,
    )
    return {path.name for path in folder.iterdir()}


def test_export_and_benchmarks_turn_it_off(tmp_path: Path) -> None:
    benchmarks = Path(__file__).parents[1] / "benchmarks"
    if SESSION_FILE not in written("import onnxruntime", tmp_path / "plain"):
        pytest.skip("this onnxruntime reports nothing by itself")
    for name in ("aesthetic_export", "aesthetic_bench"):
        program = f"import {name}, onnxruntime"
        found = written(program, tmp_path / name, PYTHONPATH=str(benchmarks))
        assert SESSION_FILE not in found


def test_the_server_turns_it_off() -> None:
    assert environment(locate_server())["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize(
    "first", ["aesthetic_export", "aesthetic_bench", "aesthetic_serve.backends.openvino.engine"]
)
def test_openvino_reports_nothing_after_us(tmp_path: Path, first: str) -> None:
    """What it would report with leaves an identity and counts in the home folder."""
    pytest.importorskip("openvino")
    benchmarks = Path(__file__).parents[1] / "benchmarks"
    program = f"import {first}, openvino; openvino.Core()"
    variables = {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(benchmarks)}
    (tmp_path / "home").mkdir()
    written(program, tmp_path / "temporary", **variables)
    assert not list((tmp_path / "home").rglob("*openvino*"))


def test_the_backend_imports_openvino_after_what_keeps_it_quiet() -> None:
    source = BACKENDS / "openvino" / "model.py"
    lines = source.read_text("utf-8").splitlines()
    at = [i for i, line in enumerate(lines) if line.strip().startswith("import openvino")]
    before = [i for i, line in enumerate(lines) if "aesthetic_serve.backends.openvino" in line]
    assert at and before and min(at) > min(before)
