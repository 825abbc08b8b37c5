"""From `aesthetic serve` to the first score: the log's stages, and one start."""

from __future__ import annotations

from pathlib import Path

import pytest
from aesthetic_bench.errors import BenchError
from aesthetic_bench.start_cases import read_log, start_once

# Of Triton 2.51.0, shortened; in a time zone half an hour off.
LOG = """W1120 20:29:59.500000 7 pinned_memory_manager.cc:273] "Unable to allocate pinned memory"
I1120 20:30:00.250000 7 model_lifecycle.cc:472] "loading: clip_image:1"
I1120 20:30:00.500000 7 model_lifecycle.cc:472] "loading: preprocess:1"
I1120 20:30:02.500000 7 model_lifecycle.cc:839] "successfully loaded 'preprocess'"
I1120 20:30:07.250000 7 model_lifecycle.cc:839] "successfully loaded 'clip_image'"
+------------------+---------+--------+
"""
STARTED = 1_763_668_798.5  # 2025-11-20 19:59:58.5 UTC


def test_the_log_tells_the_stages() -> None:
    stages, models = read_log(LOG, STARTED, ready_s=10.0, score_s=11.0)
    assert stages == pytest.approx(
        {
            "launcher": 1.0,
            "Triton itself": 0.75,
            "models": 7.0,
            "canary": 1.25,
            "client's score": 1.0,
        }
    )
    assert sum(stages.values()) == pytest.approx(11.0)
    assert models == pytest.approx({"clip_image": 7.0, "preprocess": 2.0})


def test_a_log_without_models_is_refused() -> None:
    with pytest.raises(BenchError, match="does not say when its models were loaded"):
        read_log(LOG.replace("successfully", "un"), STARTED, 10.0, 11.0)


@pytest.mark.triton
def test_a_start(tiny_repository: Path, tmp_path: Path) -> None:
    found = start_once(tiny_repository, "fp32", tmp_path)
    stages, models = found["stages_s"], found["models_s"]
    assert sum(stages.values()) == pytest.approx(found["first_score_s"])
    assert min(stages.values()) >= 0
    assert {"preprocess", "clip_image", "aesthetic_heads", "aesthetic"} <= set(models)
    # Side by side: one after another they would take longer than the stage.
    parts = ("preprocess", "clip_image", "aesthetic_heads")
    assert max(models[name] for name in parts) <= stages["models"] < sum(models.values())


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"ended without being ready.*\n.*does not exist"):
        start_once(tmp_path / "none", "fp32", tmp_path)
