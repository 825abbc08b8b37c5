"""The whole benchmark once, small: the real Triton, the real perf_analyzer, the tiny tower."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aesthetic_bench.errors import BenchError
from aesthetic_bench.perf_analyzer import PerfAnalyzer
from aesthetic_bench.tables import markdown

pytestmark = pytest.mark.triton

ROOT = Path(__file__).parents[2]
ENSEMBLES = {
    "aesthetic": ("preprocess", "clip_image", "aesthetic_heads"),
    "aesthetic_pixels": ("clip_image", "aesthetic_heads"),
}


def command(repository: Path, output: Path) -> list[str]:
    options = ["--quick", "--seconds", "0.2", "--concurrency", "1,3"]
    tower = ["--tower", "towers:tiny_tower"]
    program = [sys.executable, "benchmarks/serving.py", "--repository", str(repository)]
    return [*program, *options, *tower, "--output", str(output)]


def environment(temporary: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(temporary)}


@pytest.fixture(scope="module", autouse=True)
def perf_analyzer(tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        PerfAnalyzer(tmp_path_factory.mktemp("perf_analyzer"))
    except BenchError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def result(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], str]:
    """The results file's content, and what the terminal showed."""
    folder = tmp_path_factory.mktemp("bench")
    output = folder / "new" / "results.json"
    done = subprocess.run(
        command(tiny_repository, output),
        cwd=ROOT,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert leftovers(folder) == []
    record = json.loads(output.read_text())
    assert str(tiny_repository) not in output.read_text()
    return record, done.stdout


def test_every_case_was_measured(result: tuple[dict[str, Any], str]) -> None:
    record, _ = result
    cases = [(c["model"], c["items_per_request"], c["concurrency"]) for c in record["served"]]
    assert cases[:4] == [(name, 1, inflight) for name in ENSEMBLES for inflight in (1, 3)]
    assert [case[0] for case in cases[4:]] == ["aesthetic_heads"] * 4
    for case in record["served"]:
        rate = case.get("images_per_s") or case["embeddings_per_s"]
        assert rate > 0
        assert case["requests"] > 0 and case["measured_s"] > 0
        assert 0 < case["p50_ms"] <= case["p95_ms"] <= case["p99_ms"]
        steps = ENSEMBLES.get(case["model"], ())
        assert set(case["models"]) == {case["model"], *steps}
        for work in case["models"].values():
            assert work["executions"] > 0
            assert work["mean_batch"] >= 1
            assert work["busy_ms_per_item"] > 0
        for step in steps:
            assert case["models"][step]["inferences"] == case["requests"]


def test_loops_ran_beside_the_server(result: tuple[dict[str, Any], str]) -> None:
    record, _ = result
    assert record["order"][:3] == [
        "bare engine (no server)",
        "torch loop (no server)",
        "start server",
    ]
    assert "perf_analyzer on aesthetic" in record["order"]
    assert "bare engine (server idle)" in record["order"]
    assert [run["step"] for run in record["bare_engine"]] == [0, 5]
    assert "skipped" not in record["torch_loop"]
    for run in (*record["bare_engine"], *record["torch_loop"]["runs"]):
        assert [rate["batch"] for rate in run["rates"]] == [1, 8]
        assert all(rate["images_per_s"] > 0 for rate in run["rates"])
        assert 0 <= run["other_processes_share_of_cpu"] <= 1
    # The loop and the engine computed the same embeddings, from files here and from pixels there.
    assert record["torch_loop"]["runs"][0]["lowest_cosine_with_bare_engine"] > 0.99999


def test_claims_are_finite(result: tuple[dict[str, Any], str]) -> None:
    record, _ = result
    ratios = list(numbers(record["ratios"]))
    assert len(ratios) == 9
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in ratios)
    for model in ENSEMBLES:
        point = record["saturation"][model]
        assert point["concurrency"] == 3
        parts = dict(point["time_per_image_ms"])
        assert parts.pop("total") == pytest.approx(sum(parts.values()))
    assert all(math.isfinite(number) for number in numbers(record))


def test_where_the_figures_come_from(result: tuple[dict[str, Any], str]) -> None:
    record, shown = result
    assert record["versions"]["triton"] == "2.51.0"
    assert all(record["versions"][name] for name in ("perf_analyzer", "onnxruntime", "torch"))
    assert "scores are meaningless" in record["weights"]["weights"]
    assert "scores are meaningless" in shown
    assert record["machine"]["usable_cores"] >= 1
    assert record["parameters"]["server"]["instances"]["clip_image"] == 1
    assert "Served, beside the bare engine" in shown
    assert "| aesthetic |" in markdown(record)


def test_an_interrupt_leaves_nothing_behind(tiny_repository: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    run = subprocess.Popen(
        command(tiny_repository, output),
        cwd=ROOT,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stderr is not None
    with run, run.stderr as said:
        for line in said:
            if "in flight" in line:
                break
        assert run.poll() is None
        deadline = time.monotonic() + 30
        while not processes_with(tmp_path, "perf_analyzer"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        assert "nothing was written" in said.read()
    assert run.returncode == 130
    assert leftovers(tmp_path) == []
    assert processes_with(tmp_path) == []


def leftovers(folder: Path) -> list[Path]:
    """What the benchmark, its server and its children left; onnxruntime has a `.ses` of its own."""
    return [path for path in folder.iterdir() if path.name not in ("new", ".ses")]


def numbers(value: object) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def processes_with(folder: Path, program: str = "") -> list[int]:
    """Living processes whose command line names the folder, and the program."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(folder) in line and program in line:
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]
