"""The benchmark of curation, at a size that measures nothing."""

from __future__ import annotations

import json
from pathlib import Path

import curation
import pytest
import report
from aesthetic_bench import curation_cases
from aesthetic_bench.curation_cases import _memory


def test_a_small_run_scores_every_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "found.json"
    settings = ["--samples", "50", "--samples-per-shard", "20", "--output", str(output)]
    assert curation.main(settings) == 0
    record = json.loads(output.read_text())
    assert record["scored"] == 50
    assert record["summary"] == "3 shards, 50 samples, 50 scored"
    assert record["samples_per_s"] == pytest.approx(50 / record["seconds"])
    assert record["worker_us_per_sample"] > 0
    assert record["memory"]["peak_mib"] > 20
    assert record["parameters"]["workers"] == 1
    assert record["versions"]["git_commit"]
    shown = capsys.readouterr().out
    assert shown.startswith("50 samples, ")
    assert report.main([str(output)]) == 0
    assert capsys.readouterr().out == shown


def test_memory_that_grows_shows() -> None:
    flat = _memory([(float(at), 100.0) for at in range(40)])
    grows = _memory([(float(at), 100.0 + at) for at in range(40)])
    assert flat["late_over_early"] == 1
    assert grows["early_mib"] == pytest.approx(114.5)
    assert grows["late_over_early"] == pytest.approx(134.5 / 114.5)


def test_a_run_that_fails_ends_with_its_reason_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(curation_cases, "make_data_set", lambda folder, settings: 0)
    output = tmp_path / "found.json"
    assert curation.main(["--samples", "1", "--output", str(output)]) == 1
    said = capsys.readouterr().err
    assert "error: aesthetic curate score failed with 2: " in said and "Traceback" not in said
    assert not output.exists()
