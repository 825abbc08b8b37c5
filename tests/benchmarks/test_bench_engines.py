"""Every engine gives the tower's embeddings, a worker measures in its turn, and a whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aesthetic_bench import engine_kinds, engine_run, engine_tables, engine_worker, tower_files
from aesthetic_bench.engine_settings import EngineSettings
from aesthetic_bench.errors import BenchError
from aesthetic_bench.matrix_rates import MatrixRates
from aesthetic_bench.memory import family, peak_rss_mib
from aesthetic_bench.work import Shape
from aesthetic_bench.workers import Worker
from PIL import Image

from aesthetic_client import contract
from aesthetic_client.pixels import CLIP_MEAN, CLIP_STD, prepare_pixels
from aesthetic_export.checkpoints import open_clip_names
from generated_images import encoded, texture
from towers import tiny_tower

ROOT = Path(__file__).parents[2]
TINY = Shape(width=64, layers=2, heads=2)


def photographs(folder: Path) -> list[Path]:
    files = [folder / f"{number}.jpg" for number in range(8)]
    for number, file in enumerate(files):
        file.write_bytes(encoded(Image.fromarray(texture(400, 300, 3, number)), "JPEG"))
    return files


@pytest.fixture(scope="module")
def task(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run tells its workers, of the tiny tower and two images."""
    folder = tmp_path_factory.mktemp("engines")
    files = photographs(folder)[:2]
    np.save(folder / "pixels.npy", np.stack([prepare_pixels(f.read_bytes()) for f in files]))
    written = tower_files.write({"tower": {"factory": "towers:tiny_tower"}, "folder": str(folder)})
    assert written == {"shape": {"patch": 14, "width": 64, "layers": 2, "heads": 2, "mlp_ratio": 4}}
    tower = tiny_repository / "clip_image"
    return {
        **written,
        "weights": str(folder),
        "pixels": str(folder / "pixels.npy"),
        "files": [str(file) for file in files],
        "count": 2,
        "model_folder": str(tower),
        "config_file": "config.pbtxt",
        "onnx": str(tower / "1" / "model.onnx"),
        "max_batch": contract.CLIP_IMAGE.max_batch,
    }


@pytest.fixture(scope="module")
def expected(task: dict[str, Any]) -> Any:
    """The tower's embeddings of the images, normalised as OpenAI's transform does it."""
    pixels = np.load(task["pixels"]).astype(np.float64) / 255
    normalised = (pixels - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    values = torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float()
    return torch.nn.functional.normalize(tiny_tower().module(values), dim=-1).numpy()


# PyTorch announces TorchScript's end.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(engine_kinds.LOADERS))
def test_every_engine_runs_the_same_tower(kind: str, task: dict[str, Any], expected: Any) -> None:
    if "openvino" in kind:
        pytest.importorskip("openvino")
    if kind in ("transformers", "torch_bf16"):
        pytest.importorskip("transformers")
    found = engine_kinds.LOADERS[kind](task)([1, 0, 1])
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert found.dtype == np.float32
    off = np.abs(found - expected[[1, 0, 1]]).max()
    assert off < (1e-2 if kind == "torch_bf16" else 2e-6)
    assert (off > 1e-4) == (kind == "torch_bf16")  # it computes in bfloat16, no other does
    assert np.abs(expected[0] - expected[1]).max() > 0.03  # images that changed places would show


def test_transformers_names_are_read_back() -> None:
    state = dict(tiny_tower().module.state_dict())
    renamed = tower_files.transformers_names(state)
    assert "vision_model.encoder.layers.1.self_attn.k_proj.bias" in renamed
    again = open_clip_names(renamed)
    assert set(again) == set(state)
    for name, tensor in state.items():
        assert torch.equal(again[name], tensor), name


def test_a_turn_gives_every_batch_size_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sizes = [0.0], []

    def run(size: int) -> None:
        sizes.append(size)
        clock[0] += 0.25 * size

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    one, eight = engine_worker.time_turn(run, (1, 8), 0.6)
    assert sizes == [1, 1, 1, 8]  # a batch that takes longer than its time runs once
    assert one.executions_s == (0.25, 0.25, 0.25)
    assert (eight.batch, eight.images_per_s) == (8, 4.0)


def test_matrix_rates_count_a_layer_s_products(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    rates = MatrixRates(TINY)
    found = rates.measure(0.01)
    assert set(found) == {"fp32", "bf16", "int8"}
    assert all(set(rate) == {"torch", "openvino"} for rate in found.values())
    assert min(min(rate.values()) for rate in found.values()) > 0
    clock = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(rates, "_makers", {"still": lambda *_: lambda: None})
    layer = 2 * 8 * 257 * 12 * 64**2
    # Begin at 0 s, look at 1 s and 2 s after two and three layers, end at 3 s.
    again = rates.measure(2.0)
    assert set(again) == set(found)
    assert all(rate == {"still": pytest.approx(layer / 1e9)} for rate in again.values())


def test_a_worker_measures_and_ends(task: dict[str, Any], tmp_path: Path) -> None:
    with Worker("the profile", {**task, "kind": "profile"}, tmp_path) as worker:
        (child,) = set(family(os.getpid())) & {worker.pid}
        ready = worker.wait_until_ready(60)
        assert 0 < ready["load_s"] < 60 and "skipped" not in ready
        turn = worker.ask({"do": "turn", "batches": [1, 2], "seconds": 0.01}, 60)
        assert [rate["batch"] for rate in turn["rates"]] == [1, 2]
        assert all(rate["images_per_s"] > 0 for rate in turn["rates"])
        assert turn["peak_rss_mib"] == pytest.approx(peak_rss_mib(child), rel=0.2)
        assert turn["peak_rss_mib"] > 30
    assert not Path(f"/proc/{child}").exists()
    assert peak_rss_mib(child) == 0


def test_what_a_worker_cannot_do_is_told(task: dict[str, Any], tmp_path: Path) -> None:
    broken = {**task, "kind": "onnxruntime", "onnx": "no.onnx"}
    said = r"gone ended with code 1; its last lines:\n[^$]*no\.onnx"
    with Worker("gone", broken, tmp_path) as worker, pytest.raises(BenchError, match=said):
        worker.wait_until_ready(60)
    (tmp_path / "openvino.py").write_text("raise ModuleNotFoundError('No', name='openvino')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        worker = Worker("openvino", {**task, "kind": "openvino_fp32"}, tmp_path)
    with worker:
        assert worker.wait_until_ready(60)["skipped"] == "openvino is not installed"
    slow = Worker("slow", {**task, "kind": "profile"}, tmp_path)
    with slow, pytest.raises(BenchError, match=r"slow: no answer within 0 s"):
        slow.wait_until_ready(0.0)


def test_another_tower_is_refused(tiny_repository: Path) -> None:
    settings = EngineSettings(
        tiny_repository, tower="towers:tiny_tower", kinds=frozenset(), served=False, rounds=1
    )
    begun = engine_run.EngineRun(settings, tiny_repository, lambda _: None)
    begun._embeddings = {
        "torch eager, open_clip": np.eye(2, 768),
        "profile fp32": np.ones((2, 768)),
    }
    with pytest.raises(BenchError, match=r"another model than the one served \(cosine 0\.0"):
        begun._check_reference()


@pytest.mark.long
@pytest.mark.triton
def test_the_whole_command(tiny_repository: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "results.json"
    command = [sys.executable, "benchmarks/engines.py", "--repository", tiny_repository]
    photographs(tmp_path)
    small = ["--quick", "--seconds", "0.05", "--only", "onnxruntime", "--images", tmp_path]
    done = subprocess.run(
        [*command, *small, "--tower", "towers:tiny_tower", "--output", output],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "perf_analyzer is in the Linux wheel" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    left = {path.name for path in tmp_path.iterdir() if path.suffix != ".jpg"}
    assert left - {".ses"} == {"new"}
    assert str(tiny_repository) not in output.read_text()
    assert str(tmp_path) not in output.read_text()
    record = json.loads(output.read_text())
    names = ["torch eager, open_clip", "ONNX Runtime alone", "profile fp32"]
    ensembles = ("aesthetic", "aesthetic_pixels")
    assert [row["name"] for row in record["rows"]] == [
        *names,
        *(f"profile fp32, Triton {model}" for model in ensembles),
    ]
    for row in record["rows"]:
        assert row["load_s"] > 0 and row["peak_rss_mib"] > 0
        assert len(row["turns"]) == 1
        # The same tower: what fp32 leaves, in points of the heads' scores.
        assert row["drift"]["largest"] < 1e-3
        for figures in ("mean_by_head", "largest_by_head"):
            assert set(row["drift"][figures]) == {head.output for head in contract.HEADS}
    assert record["rows"][0]["drift"]["largest"] == 0
    assert [one["batch"] for one in record["rows"][0]["batches"]] == [1, 4, 8]
    assert all(one["over_reference"] == 1 for one in record["rows"][0]["batches"])
    for row in record["rows"][3:]:
        assert row["saturation"]["over_bare_engine"] > 0
        assert row["turns"][0]["requests"] >= 32
    assert record["versions"]["triton"] == "2.51.0"
    assert record["tower"]["width"] == 64
    assert "scores are meaningless" in done.stdout
    assert output.with_suffix(".svg").read_text().startswith("<svg")
    for row in engine_tables.tables(record)[0].rows:
        assert row[0] in done.stdout
