"""The benchmark of stored embeddings once, small: the real Triton, every way, every file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/embeddings.py", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.mark.long
@pytest.mark.triton
def test_every_way_scores_every_file_alike(
    tiny_server, tiny_repository: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "results.json"
    small = ("--rows", 3_000, "--seconds", 0.1, "--rounds", 2, "--output", output)
    done = bench("--repository", tiny_repository, "--url", tiny_server.grpc_url, *small)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    assert str(tmp_path) not in output.read_text()
    assert "scores are meaningless" in record["weights"]
    assert record["versions"]["triton"] == "2.51.0"
    assert record["parameters"]["rows"] == 3_000
    cases = record["cases"]
    assert {case["storage"] for case in cases} == {
        *("npy, float16", "npy, float32", "parquet, float32")
    }
    assert len(cases) == 3 * 6
    for case in cases:
        assert case["largest_difference_from_local"] <= 2e-5
        assert len(case["rounds"]) == 2
        rates = sorted(one["vectors_per_minute"] for one in case["rounds"])
        assert 0 < rates[0] <= case["vectors_per_minute"] <= rates[1]
        assert case["ns_per_vector"] > 0
    shown = subprocess.run(
        [sys.executable, "benchmarks/report.py", output], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.stdout == done.stdout
    assert "| local heads, the default |" in done.stdout
    assert "| local heads, the default, on one thread |" in done.stdout


def test_a_repository_without_the_data_is_told_of(tmp_path: Path) -> None:
    done = bench("--repository", tmp_path, "--output", tmp_path / "results.json")
    assert done.returncode == 1
    assert "`aesthetic export --model aesthetic_heads` writes it" in done.stderr
    assert list(tmp_path.iterdir()) == []
