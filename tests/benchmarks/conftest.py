"""The benchmarks are no installed package: tests find them as their own commands do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))


def work(inferences: int, executions: int, infer_ms: float) -> dict[str, float]:
    """A model's work as a results file has it; `infer_ms` is an execution's."""
    return {
        "inferences": inferences,
        "executions": executions,
        "mean_batch": inferences / executions,
        "queue_ms_per_request": 12.0,
        "compute_input_ms_per_execution": 1.0,
        "compute_infer_ms_per_execution": infer_ms,
        "compute_output_ms_per_execution": 3.0,
        "compute_infer_ms_per_item": infer_ms * executions / inferences,
        "busy_ms_per_item": (infer_ms + 4.0) * executions / inferences,
    }


def loop(step: int, **images_per_s: float) -> dict[str, Any]:
    """A run of a loop; `batch_8=1.25` is a rate."""
    rates = [
        {"batch": int(name.removeprefix("batch_")), "images_per_s": rate}
        for name, rate in images_per_s.items()
    ]
    alone = {"other_processes_share_of_cpu": 0.01, "stolen_share_of_cpu": 0.0}
    return {"step": step, **alone, "rates": rates}


@pytest.fixture
def served() -> list[dict[str, Any]]:
    """Two cases of `aesthetic` in step 3, the second at saturation, and one of the heads."""
    latency = {"avg_ms": 900.0, "p50_ms": 901.0, "p90_ms": 950.0, "p95_ms": 955.0, "p99_ms": 1234.0}
    head = {"step": 3, "model": "aesthetic", "items_per_request": 1, **latency}
    models = {
        "aesthetic": work(16, 16, 0.0),
        "preprocess": work(16, 8, 36.0),
        "clip_image": work(16, 2, 7600.0),
        "aesthetic_heads": work(16, 4, 1.0),
    }
    return [
        {**head, "concurrency": 1, "images_per_s": 0.9, "models": models},
        {**head, "concurrency": 16, "images_per_s": 1.0, "models": models},
        {
            **head,
            "step": 5,
            "model": "aesthetic_heads",
            "items_per_request": 256,
            "concurrency": 4,
            "embeddings_per_s": 54321.0,
            "models": {"aesthetic_heads": work(1024, 2, 9.0)},
        },
    ]


@pytest.fixture
def bare() -> list[dict[str, Any]]:
    """Around step 3 the engine does 1.25 images/s at its best batch, in the mean."""
    return [
        loop(0, batch_1=1.0, batch_8=1.3),
        loop(4, batch_1=0.9, batch_8=1.2),
        loop(6, batch_1=5.0, batch_8=6.0),
    ]


@pytest.fixture
def record(served: list[dict[str, Any]], bare: list[dict[str, Any]]) -> dict[str, Any]:
    """A small results file, composed as a run does it."""
    from aesthetic_bench import figures
    from aesthetic_bench.settings import SCHEMA

    torch_runs = [loop(1, batch_1=0.8, batch_8=0.5)]
    content = {
        "schema": SCHEMA,
        "date_utc": "2026-11-20T12:00:00+00:00",
        "machine": {"cpu": "A CPU", "usable_cores": 2, "memory_gib": 23.5},
        "versions": {
            "triton": "2.51.0",
            "onnxruntime": "1.31.1",
            "torch": "2.13.0",
            "perf_analyzer": "2.51.0",
            "git_commit": "abc123",
        },
        "weights": {"weights": "seeded, scores are meaningless"},
        "parameters": {
            "quick": False,
            "profile": "fp32",
            "images": {
                "count": 8,
                "formats": ["JPEG"],
                "mean_megapixels": 1.8,
                "origin": "made up",
            },
        },
        "served": served,
        "bare_engine": bare,
        "torch_loop": {"runs": torch_runs},
        "ratios": figures.ratios(served, bare, torch_runs, instances=1),
        "saturation": {
            model: figures.saturation(served, bare, model, instances=1)
            for model in figures.IMAGE_MODELS
        },
    }
    return dict(json.loads(json.dumps(content)))
