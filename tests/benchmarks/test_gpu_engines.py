"""Each engine as far as a machine without a GPU can take it."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import bench_gpu_path  # noqa: F401
import pytest
import torch
from gpu_bench import engines, jobs, matrix, onnx_engine, parity, tensorrt_engine, timing
from gpu_bench.heads import random_heads
from gpu_bench.images import made_up
from gpu_bench.shapes import TINY, products
from gpu_bench.tower import seeded_tower

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> engines.Setting:
    work = tmp_path_factory.mktemp("gpu")
    tower = seeded_tower(TINY, 0)
    return engines.Setting(tower, CPU, (1, 3), work, compile_backend="eager")


@pytest.mark.parametrize("name", ["torch_eager_fp16", "torch_compile_fp16", "onnxruntime_fp16"])
def test_engines_agree_with_fp32_and_with_themselves(
    name: str, setting: engines.Setting, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels = made_up(3)
    with torch.no_grad():
        reference = engines.torch_fp32(setting)(pixels)
        call = engines.ENGINES[name](setting)
        fast = call(pixels).clone()
        alone = call(pixels[1:2]).clone()
    found = parity.parity(fast, reference, random_heads(CPU))
    assert found["finite"] and found["cosine_min"] > 0.9999
    assert max(found["score_max_difference"].values()) < 0.05
    assert torch.allclose(alone[0], fast[1], atol=1e-3)  # a batch changes nobody's answer


def test_parity_sees_another_image() -> None:
    reference = torch.nn.functional.normalize(torch.randn(4, 768), dim=-1)
    found = parity.parity(reference.flip(0), reference, random_heads(CPU))
    assert found["cosine_min"] < 0.5
    found = parity.parity(reference * float("nan"), reference, random_heads(CPU))
    assert not found["finite"]


def test_onnxruntime_without_a_provider_is_skipped_by_name(
    setting: engines.Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(onnx_engine.PROVIDERS, "cpu", "CUDAExecutionProvider")
    with pytest.raises(engines.SkipError, match="has no CUDAExecutionProvider"):
        onnx_engine.onnxruntime_call(setting)


def test_a_missing_module_is_named(
    setting: engines.Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(engines.SkipError, match="onnxruntime cannot be imported"):
        onnx_engine.onnxruntime_call(setting)
    for name in tensorrt_engine.MODULES:
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(engines.SkipError, match="tensorrt_bindings"):
        tensorrt_engine.tensorrt_call(setting)


def test_an_export_that_lacks_a_package_is_skipped(
    setting: engines.Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_onnxscript(*arguments: object, **options: object) -> None:
        raise ImportError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(torch.onnx, "export", no_onnxscript)
    with pytest.raises(engines.SkipError, match="no --onnx, and onnxscript is missing"):
        onnx_engine.export(setting, tmp_path / "x.onnx")


def test_the_real_parser_and_builder_take_the_graph(setting: engines.Setting) -> None:
    """TensorRT-RTX builds without a GPU; its interface is TensorRT's."""
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("tensorrt_rtx_bindings is not installed: a plan cannot be built here")
    import tensorrt_rtx_bindings as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    onnx = Path(onnx_engine.onnx_file(setting))
    assert len(memoryview(tensorrt_engine.build(trt, logger, onnx, (1, 4)))) > 100_000
    broken = setting.work / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(tensorrt_engine.BuildError):
        tensorrt_engine.build(trt, logger, broken, (1, 4))


def test_tensorrt_needs_cuda(setting: engines.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engine, "tensorrt_module", lambda: object())
    with pytest.raises(engines.SkipError, match="needs a CUDA device"):
        tensorrt_engine.tensorrt_call(setting)


def test_matrix_rates_count_all_but_attention() -> None:
    found = matrix.matrix_rates(TINY, 1, CPU, torch.float32, 0.001)
    names = [row["product"] for row in found["products"]]
    assert names == [product.name for product in products(TINY, 1)]
    assert [row["product"] for row in found["products"] if not row["counted"]] == [
        "scores",
        "values",
    ]
    rates = [row["tflops"] for row in found["products"] if row["counted"]]
    assert min(rates) <= found["tflops"] <= max(rates)


def test_times_are_of_each_call() -> None:
    calls: list[int] = []
    found = timing.measure(lambda: calls.append(1), CPU, 0.0)
    assert found.calls == timing.LEAST_CALLS
    assert len(calls) == timing.WARM_UP_CALLS + 1 + found.calls
    assert found.p50_ms <= found.p99_ms <= found.max_ms


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.99, 4.0), (0.25, 1.0)])
def test_quantiles(share: float, value: float) -> None:
    assert timing.quantile([1.0, 2.0, 3.0, 4.0], share) == value


def test_an_error_of_the_device_ends_its_row_only(
    setting: engines.Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine(_: engines.Setting) -> Any:
        def call(pixels: torch.Tensor) -> torch.Tensor:
            if len(pixels) == 3:
                raise RuntimeError("CUDA out of memory\nwith a long story")
            return torch.nn.functional.normalize(torch.ones(len(pixels), 768), dim=-1)

        return call

    monkeypatch.setitem(engines.ENGINES, "torch_eager_fp16", engine)
    torch.save(made_up(3), tmp_path / "pixels.pt")
    torch.save(torch.ones(2, 768), tmp_path / "reference.pt")
    job = jobs.Job(
        name="torch_eager_fp16",
        device="cpu",
        shape="tiny",
        batches=[1, 3],
        seconds=0.0,
        deadline=float("inf"),
        work=str(tmp_path),
        weights=None,
        heads=None,
        onnx=None,
        compile_backend="eager",
        matrix_seconds=0.0,
        parity_images=1,
    )
    result = jobs.Result(tmp_path / "result.json")
    jobs.run_job(job, result)
    good, bad = result.content["batches"]
    assert good["images_per_s"] > 0
    assert bad == {"batch": 3, "failed": "CUDA out of memory"}
    assert result.content["parity"]["images"] == 2


@pytest.fixture(autouse=True)
def _quiet_logs() -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
