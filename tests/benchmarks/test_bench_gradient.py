"""The benchmark of gradients once, small: the real Triton beside torch's autograd."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gradients import GradientExport, build_gradient_repository

ROOT = Path(__file__).parents[2]


def bench(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gradient.py", *map(str, options)]
    environment = {"PYTHONPATH": str(ROOT / "tests"), "PATH": f"{Path(sys.executable).parent}:/bin"}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment
    )


@pytest.mark.long
@pytest.mark.triton
def test_both_ways_take_their_turns_and_agree(
    gradient_export: GradientExport, tmp_path: Path
) -> None:
    target = build_gradient_repository(tmp_path / "repository", gradient_export)
    output = tmp_path / "new" / "results.json"
    small = ("--side", 64, "--rounds", 2, "--output", output)
    done = bench("--repository", target, "--factory", "towers:tiny_tower", *small)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    assert str(tmp_path) not in output.read_text()
    assert "scores are meaningless" in record["weights"]
    assert record["parameters"]["side"] == 64
    by_case = {(case["way"], case["batch"]): case for case in record["cases"]}
    ways = ("served", "local torch autograd")
    assert list(by_case) == [(way, batch) for batch in (1, 4, 8) for way in ways]
    for (_, batch), case in by_case.items():
        assert case["executions"] == (6 if batch == 1 else 2)
        assert 0 < case["fastest_execution_ms"] <= case["execution_p50_ms"]
        assert case["gradient_difference"] < 1e-4 and case["score_difference"] < 1e-3
    command = [sys.executable, "benchmarks/report.py", output]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert shown.stdout == done.stdout
    assert "| batch | served, ms a call | local torch autograd, ms |" in done.stdout
