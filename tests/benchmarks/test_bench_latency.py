"""What serving adds to a single image's time: its stages, and the benchmark once, small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from aesthetic_bench.instant_tower import write_instant_tower
from aesthetic_bench.latency_cases import stages_ms
from aesthetic_bench.statistics import ModelWork

from aesthetic_client import contract

ROOT = Path(__file__).parents[2]


def work(request_ms: float, queue_ms: float) -> ModelWork:
    """Of two requests."""
    return ModelWork(requests=2, request_ns=int(2e6 * request_ms), queue_ns=int(2e6 * queue_ms))


def test_stages_add_up() -> None:
    done = {
        "aesthetic_pixels": work(10.0, 0.0),
        "clip_image": work(6.5, 2.0),
        "aesthetic_heads": work(1.5, 0.25),
    }
    found = stages_ms(12.0, "aesthetic_pixels", done, {"clip_image": 4.0, "aesthetic_heads": 0.25})
    assert found == pytest.approx(
        {
            "client and gRPC": 2.0,
            "between steps": 2.0,
            "clip_image: queue": 2.0,
            "clip_image: process": 0.5,
            "clip_image: engine": 4.0,
            "aesthetic_heads: queue": 0.25,
            "aesthetic_heads: process": 1.0,
            "aesthetic_heads: engine": 0.25,
            "total": 12.0,
            "overhead": 7.75,
        }
    )
    parts = sum(found.values()) - found["total"] - found["overhead"]
    assert parts == pytest.approx(found["total"])


def test_the_instant_tower_has_the_towers_tensors(tmp_path: Path) -> None:
    write_instant_tower(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    pixels = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), np.uint8)
    (embedding,) = session.run([contract.EMBEDDING.name], {contract.PIXELS.name: pixels})
    spread = np.random.default_rng(0).normal(size=(3, 768)).astype(np.float32)
    expected = pixels.mean((1, 2), dtype=np.float64) @ spread
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)


@pytest.mark.long
@pytest.mark.triton
def test_the_command_shows_where_the_time_goes(tiny_repository: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    command = [sys.executable, "benchmarks/latency.py", "--repository", tiny_repository]
    command += ["--turns", "1", "--output", output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    text = output.read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text
    instant, served = (record["towers"][name] for name in ("instant tower", "served tower"))
    assert list(served["ways"]) == ["pixels", "JPEG file"]
    assert list(instant["ways"]) == ["pixels", "JPEG file", "pixels by shared memory"]
    for tower in (instant, served):
        for found in tower["ways"].values():
            stages = found["stages_ms"]
            assert stages["clip_image: engine"] == tower["engine_ms"] > 0
            assert 0 < stages["overhead"] == found["overhead_ms"] < stages["total"]
            assert ("preprocess: engine" in stages) == (found is tower["ways"]["JPEG file"])
    report = [sys.executable, "benchmarks/report.py", output]
    shown = subprocess.run(report, cwd=ROOT, capture_output=True, text=True)
    assert "| aesthetic_heads: queue |" in shown.stdout, shown.stderr
    assert "profile fp32, queue delay" in shown.stdout
