"""The sweep of precisions once, on towers of three narrow layers: record, tables and plot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from aesthetic_bench.precision_cases import CASES, drift

from aesthetic_client import contract

ROOT = Path(__file__).parents[2]
CHOSEN = ("fp32", "bf16, fp32 stream", "the same, first attention bf16")


def sweep(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/precision.py", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.mark.long
def test_a_sweep_gives_record_tables_and_plot(tmp_path: Path) -> None:
    output = tmp_path / "new" / "precision.json"
    small = ("--tiny", "--towers", "published", "--rounds", 1, "--output", output)
    done = sweep(*small, "--cases", *CHOSEN)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    assert str(tmp_path) not in output.read_text()
    assert record["parameters"]["images"] == 12
    assert record["parameters"]["calibration_images"] == 4
    fp32, bf16, int8 = record["cases"]
    assert [case["case"] for case in record["cases"]] == list(CHOSEN)
    assert [case["shipped"] for case in record["cases"]] == [False, True, True]
    largest = [
        case["towers"]["published"]["largest_in_default_head"] for case in (fp32, bf16, int8)
    ]
    assert largest[0] < 1e-4 < largest[1] < largest[2] < 0.2
    for case in record["cases"]:
        (speed,) = case["speed"]["rounds"]
        assert case["speed"]["ratio"] == pytest.approx(
            speed["images_per_s"] / speed["torch_images_per_s"]
        )
        assert list(case["towers"]["published"]["heads"]) == [head.name for head in contract.HEADS]
    assert "| **bf16, fp32 stream** |" in done.stdout
    shown = subprocess.run(
        [sys.executable, "benchmarks/report.py", output], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.stdout == done.stdout
    picture = output.with_suffix(".svg").read_text()
    ElementTree.fromstring(picture)
    assert "the same, first attention bf16 (shipped)" in picture
    assert "published tower" in picture


def test_drift_is_counted_in_the_default_heads_points() -> None:
    def score(embeddings: np.ndarray) -> list[np.ndarray]:
        scores = 2 * embeddings[:, :1]
        return [scores, scores, scores, scores, 10 * scores]

    reference = np.eye(768, dtype=np.float32)[:4]
    found = reference.copy()
    found[:, 0] += np.array([0.01, -0.02, 0.005, 0.0], np.float32)
    figures = drift(score, found, reference)
    default, *_, last = figures["heads"].values()
    assert default["max"] == pytest.approx(0.04, abs=1e-6)
    assert last["max"] == pytest.approx(0.4, abs=1e-5)
    assert default["mean"] == pytest.approx(2 * 0.035 / 4, abs=1e-6)
    assert figures["largest_in_default_head"] == pytest.approx(0.04, rel=1e-3)


def test_one_case_of_each_precision_is_shipped() -> None:
    shipped = [case.name.partition(",")[0] for case in CASES if case.shipped]
    assert shipped == ["bf16", "the same"]


def test_a_folder_of_too_few_images_is_refused(tmp_path: Path, photographs: list[Path]) -> None:
    for path in photographs[:2]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    done = sweep("--images", tmp_path, "--output", tmp_path / "results.json")
    assert done.returncode == 1
    assert "has 2 images" in done.stderr
    assert not (tmp_path / "results.json").exists()
