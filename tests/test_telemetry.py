"""ONNX Runtime reports to its maker unless told not to; nothing of ours lets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aesthetic_serve.launcher import environment
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
